"""The vision tower's layers for scoring: transformers' modules, run in fewer passes over memory than it runs them."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from m3agiqa.model.norms import layer_norm_of_sum

#: The activation that a GPU has as a part of its products.
_TANH_GELU = "gelu_pytorch_tanh"


def encode(vision: Any, states: torch.Tensor) -> torch.Tensor:
    """Run the layers of an Idefics2VisionTransformer and the norm behind them, without gradients.

    Args:
        vision: its modules.
        states: embedded patches [n, length, hidden]; overwritten.

    Returns:
        Features [n, length, hidden].
    """
    layers = vision.encoder.layers
    norms = [*(layer.layer_norm1 for layer in layers), vision.post_layernorm]
    normed: torch.Tensor = norms[0](states)
    for layer, following in zip(layers, norms[1:], strict=True):
        normed = layer_norm_of_sum(states, _attended(layer.self_attn, normed), layer.layer_norm2)
        normed = layer_norm_of_sum(states, layer.mlp.fc2(_activated(layer.mlp, normed)), following)
    return normed


def _attended(attention: Any, states: torch.Tensor) -> torch.Tensor:
    """Every patch attends to all, padding with them."""
    parts = (attention.q_proj, attention.k_proj, attention.v_proj)
    query, key, value = (part(states).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for part in parts)
    mixed = scaled_dot_product_attention(query, key, value, scale=attention.scale)
    projected: torch.Tensor = attention.out_proj(mixed.transpose(1, 2).flatten(2))
    return projected


def _activated(mlp: Any, states: torch.Tensor) -> torch.Tensor:
    """The first product with GELU; a GPU has both in one kernel."""
    first = mlp.fc1
    if states.is_cuda and states.dtype != torch.float32 and mlp.config.hidden_act == _TANH_GELU:
        flat = torch._addmm_activation(first.bias, states.flatten(0, 1), first.weight.T, use_gelu=True)
        return flat.view(*states.shape[:2], -1)
    activated: torch.Tensor = mlp.activation_fn(first(states))
    return activated
