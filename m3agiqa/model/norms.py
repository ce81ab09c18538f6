"""Norms that have a kernel on a GPU and a plain form elsewhere; they keep no gradients."""

from __future__ import annotations

import torch
from torch.nn import LayerNorm, functional


def rms_norm(states: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Divide states [rows, width] by their root mean square, and scale them by `weight` [width]."""
    if states.is_cuda:
        from m3agiqa.model.norm_kernel import norm

        normed: torch.Tensor = norm(states, None, weight, None, eps)
        return normed
    return functional.rms_norm(states, weight.shape, weight, eps)


def rms_norm_of_sum(states: torch.Tensor, change: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Add `change` to `states` [rows, width], in place, and give `rms_norm` of the sum."""
    if states.is_cuda:
        from m3agiqa.model.norm_kernel import norm

        normed: torch.Tensor = norm(states, change, weight, None, eps)
        return normed
    return rms_norm(states.add_(change), weight, eps)


def layer_norm_of_sum(states: torch.Tensor, change: torch.Tensor, layer: LayerNorm) -> torch.Tensor:
    """Add `change` to `states`, in place, and give the layer's norm of the sum; both are [.., width] and contiguous."""
    normed: torch.Tensor
    if states.is_cuda:
        from m3agiqa.model.norm_kernel import norm

        normed = norm(states, change, layer.weight, layer.bias, layer.eps)
    else:
        normed = layer(states.add_(change))
    return normed
