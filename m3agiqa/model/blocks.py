"""The blocks of an xLSTM stack, built from a published checkpoint's tensors; everything is float32.

Every block takes `exact`: whether a GPU multiplies in float32, or in a type as exact as float16.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import torch
from torch import nn
from torch.nn.functional import gelu, group_norm, layer_norm, logsigmoid, silu

from m3agiqa.model.slstm import fits_kernels, recurrent_weights, slstm

#: Epsilon of layer and group norms in xlstm.
_EPS = 1e-5
#: Epsilon added to the mLSTM's normaliser.
_NORMALISER_EPS = 1e-6


def block(state: Mapping[str, torch.Tensor]) -> nn.Module:
    """Build a block from its tensors, whose names say which of the two kinds it is."""
    return _SLSTMBlock(state) if "xlstm.slstm_cell._bias_" in state else _MLSTMBlock(state)


def below(state: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The tensors whose names begin with `prefix`, by the rest of their names."""
    return {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}


def linear(weight: torch.Tensor, bias: torch.Tensor | None = None) -> nn.Linear:
    module = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    module.weight = nn.Parameter(weight.float())
    if bias is not None:
        module.bias = nn.Parameter(bias.float())
    return module


class Norm(nn.Module):
    """Layer norm whose checkpoint stores the weight minus one; it norms each head if `heads` is more than one."""

    def __init__(self, weight: torch.Tensor, heads: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.float())
        self.heads = heads

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        if self.heads == 1:
            return layer_norm(states, self.weight.shape, 1 + self.weight, eps=_EPS)
        return group_norm(states.flatten(0, -2), self.heads, 1 + self.weight, eps=_EPS).view_as(states)


class _CausalConv(nn.Module):
    """Depthwise convolution over time that does not see the future."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.float())
        self.bias = nn.Parameter(bias.float())

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """The convolution of `states`, with SiLU behind it."""
        if states.is_cuda:
            from m3agiqa.model import head_kernels

            opened: torch.Tensor = head_kernels.conv_silu(states, self.weight, self.bias)
            return opened
        channels, _, width = self.weight.shape
        padded = nn.functional.pad(states.transpose(1, 2), (width - 1, 0))
        mixed = nn.functional.conv1d(padded, self.weight, self.bias, groups=channels)
        return silu(mixed.transpose(1, 2))


class _HeadwiseLinear(nn.Module):
    """Block-diagonal linear map, [blocks, out, in]."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.float())

    @cached_property
    def whole(self) -> torch.Tensor:
        """All blocks as one matrix [out, in]: a GPU multiplies it, zeros included, faster than many tiny ones."""
        whole: torch.Tensor = torch.block_diag(*self.weight)
        return whole

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        if states.is_cuda:
            product: torch.Tensor = nn.functional.linear(states, self.whole)
            return product
        blocks: torch.Tensor = states.unflatten(-1, (self.weight.shape[0], -1))
        mapped: torch.Tensor = torch.einsum("...bi,boi->...bo", blocks, self.weight)
        return mapped.flatten(-2)


class _MLSTMBlock(nn.Module):
    def __init__(self, state: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        layer = below(state, "xlstm.")
        self.norm = Norm(state["xlstm_norm.weight"])
        self.proj_up = linear(layer["proj_up.weight"])
        self.conv = _CausalConv(layer["conv1d.conv.weight"], layer["conv1d.conv.bias"])
        self.q_proj = _HeadwiseLinear(layer["q_proj.weight"])
        self.k_proj = _HeadwiseLinear(layer["k_proj.weight"])
        self.v_proj = _HeadwiseLinear(layer["v_proj.weight"])
        self.igate = linear(layer["mlstm_cell.igate.weight"], layer["mlstm_cell.igate.bias"])
        self.fgate = linear(layer["mlstm_cell.fgate.weight"], layer["mlstm_cell.fgate.bias"])
        self.heads = self.igate.out_features
        self.outnorm = Norm(layer["mlstm_cell.outnorm.weight"], self.heads)
        self.learnable_skip = nn.Parameter(layer["learnable_skip"].float())
        self.proj_down = linear(layer["proj_down.weight"])
        self._kept: tuple[torch.Tensor, torch.Tensor] | None = None

    def forward(self, states: torch.Tensor, *, exact: bool = True) -> torch.Tensor:
        up = self.proj_up(self.norm(states))
        if fits_kernels(states, len(self.learnable_skip) // self.heads, largest=256):
            # Float16 has as long a mantissa as TF32.
            down: torch.Tensor = self.proj_down(self._mixed(up, torch.float32 if exact else torch.float16))
            return states + down
        inner, gate = up.chunk(2, dim=-1)
        convolved = self.conv(inner)
        q, k, v = self.q_proj(convolved), self.k_proj(convolved), self.v_proj(inner)
        gates = torch.cat([q, k, v], dim=-1)
        q, k, v = (self._heads_first(part) for part in (q, k, v))
        mixed = mlstm(q, k, v, self.igate(gates), self.fgate(gates))
        normed = self.outnorm(mixed.transpose(1, 2).flatten(-2))
        down = self.proj_down((normed + self.learnable_skip * convolved) * silu(gate))
        return states + down

    def _fused(self, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """The matrices for the convolved states and for the inner ones; kept in the latest dtype.

        The first gives queries, keys and their share of the gates, [2 * inner + 2 * heads, inner]; the second gives
        values and their share, [inner + 2 * heads, inner].
        """
        if self._kept is None or self._kept[0].dtype != dtype:
            to_q, to_k, to_v = torch.cat([self.igate.weight, self.fgate.weight]).chunk(3, dim=1)
            q, k, v = (torch.block_diag(*part.weight) for part in (self.q_proj, self.k_proj, self.v_proj))
            self._kept = torch.cat([q, k, to_q @ q + to_k @ k]).to(dtype), torch.cat([v, to_v @ v]).to(dtype)
        return self._kept

    def _mixed(self, up: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """The input of `proj_down`, by kernels that multiply in `dtype`."""
        from m3agiqa.model import head_kernels

        from_convolved, from_inner = self._fused(dtype)
        inner = up.chunk(2, dim=-1)[0]
        width = inner.shape[-1]
        convolved = head_kernels.conv_silu(inner, self.conv.weight, self.conv.bias, dtype)
        queries_keys = nn.functional.linear(convolved, from_convolved)
        values = nn.functional.linear(inner.to(dtype), from_inner)
        gates = queries_keys[..., 2 * width :].float() + values[..., width:].float()
        input_gate, forget_gate = (gates + torch.cat([self.igate.bias, self.fgate.bias])).chunk(2, dim=-1)
        return head_kernels.mlstm(
            queries_keys,
            values,
            input_gate,
            forget_gate,
            up,
            convolved,
            1 + self.outnorm.weight,
            self.learnable_skip,
            _NORMALISER_EPS,
            _EPS,
        )

    def _heads_first(self, states: torch.Tensor) -> torch.Tensor:
        split: torch.Tensor = states.unflatten(-1, (self.heads, -1))
        return split.transpose(1, 2)


def mlstm(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, input_gate: torch.Tensor, forget_gate: torch.Tensor
) -> torch.Tensor:
    """The mLSTM of xLSTM (arXiv 2405.04517) in its parallel, stabilised form.

    Args:
        q, k, v: [rows, heads, time, dim].
        input_gate, forget_gate: pre-activations [rows, time, heads].

    Returns:
        [rows, heads, time, dim].
    """
    decay = logsigmoid(forget_gate).cumsum(dim=1).transpose(1, 2)
    log_weights = decay[..., :, None] - decay[..., None, :] + input_gate.transpose(1, 2)[..., None, :]
    future = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool, device=q.device).triu(1)
    log_weights = log_weights.masked_fill(future, -torch.inf)
    stabiliser = log_weights.amax(dim=-1, keepdim=True)
    weights = (q @ (k / k.shape[-1] ** 0.5).transpose(-1, -2)) * torch.exp(log_weights - stabiliser)
    normaliser = torch.maximum(weights.sum(dim=-1, keepdim=True).abs(), torch.exp(-stabiliser))
    mixed: torch.Tensor = (weights / (normaliser + _NORMALISER_EPS)) @ v
    return mixed


class _SLSTMBlock(nn.Module):
    def __init__(self, state: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        layer = below(state, "xlstm.")
        kernel, bias = recurrent_weights(layer["slstm_cell._recurrent_kernel_"], layer["slstm_cell._bias_"])
        self.norm = Norm(state["xlstm_norm.weight"])
        self.conv = _CausalConv(layer["conv1d.conv.weight"], layer["conv1d.conv.bias"])
        # xlstm crosses these names: the raw input gate comes from `fgate`, the raw forget gate from `igate`.
        self.raw_input = _HeadwiseLinear(layer["fgate.weight"])
        self.raw_forget = _HeadwiseLinear(layer["igate.weight"])
        self.raw_cell = _HeadwiseLinear(layer["zgate.weight"])
        self.raw_output = _HeadwiseLinear(layer["ogate.weight"])
        self.kernel = nn.Parameter(kernel)
        self.bias = nn.Parameter(bias)
        self.group_norm = Norm(layer["group_norm.weight"], kernel.shape[0])
        self.ffn_norm = Norm(state["ffn_norm.weight"])
        self.ffn_up = linear(state["ffn.proj_up.weight"])
        self.ffn_down = linear(state["ffn.proj_down.weight"])

    def forward(self, states: torch.Tensor, *, exact: bool = True) -> torch.Tensor:
        normed = self.norm(states)
        convolved = self.conv(normed)
        gates = torch.stack(
            [self.raw_input(convolved), self.raw_forget(convolved), self.raw_cell(normed), self.raw_output(normed)],
            dim=2,
        ).unflatten(-1, (self.kernel.shape[0], -1))
        states = states + self.group_norm(slstm(gates, self.kernel, self.bias, exact=exact).flatten(-2))
        gate, up = self.ffn_up(self.ffn_norm(states)).chunk(2, dim=-1)
        down: torch.Tensor = self.ffn_down(gelu(gate) * up)
        return states + down
