"""Triton kernels. Import this only where there is a GPU."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

#: Heads whose vectors one program rotates and stores.
_ROTATED_HEADS = 16


@triton.jit  # type: ignore[untyped-decorator]
def _lookup(ids, table, output, width: tl.constexpr, block: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    token = tl.load(ids + row)
    for first in range(0, width, block):
        column = first + tl.arange(0, block)
        inside = column < width
        tl.store(output + row * width + column, tl.load(table + token * width + column, mask=inside), mask=inside)


def lookup(ids: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """`ops.lookup` as a kernel that reads the host's memory over the bus: a few kilobytes a token."""
    output = torch.empty(len(ids), table.shape[1], device=ids.device, dtype=table.dtype)
    _lookup[(len(ids),)](ids, table, output, width=table.shape[1], block=1024)
    return output


@triton.jit  # type: ignore[untyped-decorator]
def _swiglu(gate_up, output, width: tl.constexpr, block: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * block + tl.arange(0, block)
    inside = column < width
    gate = tl.load(gate_up + row * 2 * width + column, mask=inside).to(tl.float32)
    up = tl.load(gate_up + row * 2 * width + width + column, mask=inside)
    # Rounded in between, as the plain form is.
    activated = (gate * tl.sigmoid(gate)).to(up.dtype)
    tl.store(output + row * width + column, activated * up, mask=inside)


def swiglu(gate_up: torch.Tensor) -> torch.Tensor:
    """`ops.swiglu` as a kernel."""
    rows, width = gate_up.shape[0], gate_up.shape[1] // 2
    output = gate_up.new_empty(rows, width)
    block = 1024
    _swiglu[(rows, triton.cdiv(width, block))](gate_up, output, width=width, block=block)
    return output


@triton.jit  # type: ignore[untyped-decorator]
def _rotate_and_store(  # type: ignore[no-untyped-def]
    qkv,
    positions,
    frequencies,
    slots,
    queries,
    keys,
    values,
    stride,
    heads: tl.constexpr,
    kv_heads: tl.constexpr,
    half: tl.constexpr,
    block_heads: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * block_heads + tl.arange(0, block_heads)[:, None]
    first = tl.arange(0, half)
    column = first[None, :]
    is_query = head < heads
    is_key = (head >= heads) & (head < heads + kv_heads)
    is_value = (head >= heads + kv_heads) & (head < heads + 2 * kv_heads)
    source = qkv + token * stride + head * 2 * half + column
    low = tl.load(source, mask=head < heads + 2 * kv_heads)
    high = tl.load(source + half, mask=head < heads + 2 * kv_heads)
    # Found once for all of the program's heads.
    angle = tl.load(positions + token).to(tl.float32) * tl.load(frequencies + first)
    cos = tl.cos(angle).to(low.dtype).to(tl.float32)[None, :]
    sin = tl.sin(angle).to(low.dtype).to(tl.float32)[None, :]
    rotated_low = (low.to(tl.float32) * cos - high.to(tl.float32) * sin).to(low.dtype)
    rotated_high = (high.to(tl.float32) * cos + low.to(tl.float32) * sin).to(low.dtype)
    slot = tl.load(slots + token) * kv_heads
    query = queries + (token * heads + head) * 2 * half + column
    tl.store(query, rotated_low, mask=is_query)
    tl.store(query + half, rotated_high, mask=is_query)
    key = keys + (slot + head - heads) * 2 * half + column
    tl.store(key, rotated_low, mask=is_key)
    tl.store(key + half, rotated_high, mask=is_key)
    value = values + (slot + head - heads - kv_heads) * 2 * half + column
    tl.store(value, low, mask=is_value)
    tl.store(value + half, high, mask=is_value)


def rotate_and_store(
    qkv: torch.Tensor,
    positions: torch.Tensor,
    frequencies: torch.Tensor,
    slots: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
) -> torch.Tensor:
    """`ops.rotate_and_store` as a kernel."""
    kv_heads, dim = keys.shape[1:]
    heads = qkv.shape[1] // dim - 2 * kv_heads
    queries = qkv.new_empty(len(qkv), heads, dim)
    _rotate_and_store[(len(qkv), triton.cdiv(heads + 2 * kv_heads, _ROTATED_HEADS))](
        qkv,
        positions,
        frequencies,
        slots,
        queries,
        keys,
        values,
        qkv.stride(0),
        heads=heads,
        kv_heads=kv_heads,
        half=dim // 2,
        block_heads=_ROTATED_HEADS,
        num_warps=1,
    )
    return queries
