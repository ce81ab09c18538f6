"""Operations that have a kernel of their own on a GPU and a plain form elsewhere."""

from __future__ import annotations

import torch
from torch.nn.functional import embedding, silu


def pinned(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a host tensor to page-locked memory, from which copies to a GPU need not block."""
    return tensor.pin_memory() if device.type == "cuda" else tensor


def moved(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a host tensor to `device` without blocking."""
    return pinned(tensor, device).to(device, non_blocking=True)


def lookup(ids: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Rows of `table` [vocab, hidden] for ids [tokens]; a GPU's ids may look into a table in pinned host memory."""
    if ids.is_cuda and not table.is_cuda:
        from m3agiqa.engine.kernels import lookup as on_gpu

        return on_gpu(ids, table)
    return embedding(ids, table)


def swiglu(gate_up: torch.Tensor) -> torch.Tensor:
    """[tokens, 2 * ffn], the gate first, to silu(gate) * up, [tokens, ffn]."""
    if gate_up.is_cuda:
        from m3agiqa.engine.kernels import swiglu as on_gpu

        return on_gpu(gate_up)
    gate, up = gate_up.chunk(2, dim=-1)
    return silu(gate) * up


def rotate_and_store(
    qkv: torch.Tensor,
    positions: torch.Tensor,
    frequencies: torch.Tensor,
    slots: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
) -> torch.Tensor:
    """Rotate queries and keys by their positions (arXiv 2104.09864, halves paired as in Llama); store keys and values.

    Args:
        qkv: queries, keys, values side by side, [tokens, (heads + 2 * kv heads) * dim].
        positions: [tokens] int64, the position of each token in its own sequence.
        frequencies: [dim / 2] float32.
        slots: [tokens] int64, the slot of each token in the cache.
        keys, values: one layer of the cache, [slots, kv heads, dim].

    Returns:
        Queries [tokens, heads, dim].
    """
    if qkv.is_cuda:
        from m3agiqa.engine.kernels import rotate_and_store as on_gpu

        return on_gpu(qkv, positions, frequencies, slots, keys, values)
    kv_heads, dim = keys.shape[1:]
    heads = qkv.shape[1] // dim - 2 * kv_heads
    queries, new_keys, new_values = qkv.unflatten(-1, (-1, dim)).split([heads, kv_heads, kv_heads], dim=1)
    angles = torch.outer(positions.float(), frequencies)
    angles = torch.cat([angles, angles], dim=-1)[:, None]
    cos, sin = angles.cos().to(qkv.dtype), angles.sin().to(qkv.dtype)
    keys.index_copy_(0, slots, _rotated(new_keys, cos, sin))
    values.index_copy_(0, slots, new_values)
    return _rotated(queries, cos, sin)


def _rotated(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = states.chunk(2, dim=-1)
    return states * cos + torch.cat([-second, first], dim=-1) * sin
