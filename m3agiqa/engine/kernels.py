"""Triton kernels. Import this only where there is a GPU."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from m3agiqa.engine.cache import PAGE_STEPS, Layout

#: Keys that one pass of the decode attention reads.
_BLOCK_KEYS = 64


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
    heads: tl.constexpr,
    kv_heads: tl.constexpr,
    half: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    first = tl.arange(0, half)
    source = qkv + (token * (heads + 2 * kv_heads) + head) * 2 * half
    low = tl.load(source + first)
    high = tl.load(source + half + first)
    slot = tl.load(slots + token)
    if head >= heads + kv_heads:
        target = values + (slot * kv_heads + head - heads - kv_heads) * 2 * half
        tl.store(target + first, low)
        tl.store(target + half + first, high)
    else:
        angle = tl.load(positions + token).to(tl.float32) * tl.load(frequencies + first)
        cos = tl.cos(angle).to(low.dtype).to(tl.float32)
        sin = tl.sin(angle).to(low.dtype).to(tl.float32)
        rotated_low = low.to(tl.float32) * cos - high.to(tl.float32) * sin
        rotated_high = high.to(tl.float32) * cos + low.to(tl.float32) * sin
        if head < heads:
            target = queries + (token * heads + head) * 2 * half
        else:
            target = keys + (slot * kv_heads + head - heads) * 2 * half
        tl.store(target + first, rotated_low.to(low.dtype))
        tl.store(target + half + first, rotated_high.to(low.dtype))


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
    _rotate_and_store[(len(qkv), heads + 2 * kv_heads)](
        qkv,
        positions,
        frequencies,
        slots,
        queries,
        keys,
        values,
        heads=heads,
        kv_heads=kv_heads,
        half=dim // 2,
        num_warps=1,
    )
    return queries


@triton.jit  # type: ignore[untyped-decorator]
def _attend(  # type: ignore[no-untyped-def]
    scores, values, highest, total, mixed, precision: tl.constexpr
):
    """One step of the online softmax."""
    new_highest = tl.maximum(highest, tl.max(scores, 1))
    weights = tl.exp2(scores - new_highest[:, None])
    decay = tl.exp2(highest - new_highest)
    mixed = mixed * decay[:, None] + tl.dot(weights.to(values.dtype), values, input_precision=precision)
    return new_highest, total * decay + tl.sum(weights, 1), mixed


# One function, long as it is: its two loops share what a program keeps in registers.
@triton.jit  # type: ignore[untyped-decorator]
def _decode_attention(  # type: ignore[no-untyped-def]
    queries,
    keys,
    values,
    output,
    starts,
    lengths,
    pages,
    ancestors,
    step,
    scale,
    row_pages: tl.constexpr,
    row_steps: tl.constexpr,
    page_steps: tl.constexpr,
    beams: tl.constexpr,
    group: tl.constexpr,
    kv_heads: tl.constexpr,
    dim: tl.constexpr,
    block_rows: tl.constexpr,
    block_keys: tl.constexpr,
    precision: tl.constexpr,
):
    prompt = tl.program_id(0)
    head = tl.program_id(1)
    row = tl.arange(0, block_rows)
    beam = row // group
    real = row < beams * group
    column = tl.arange(0, dim)
    at = ((prompt * beams + beam) * kv_heads * group + head * group + row % group) * dim
    query = tl.load(queries + at[:, None] + column[None, :], mask=real[:, None], other=0.0)
    highest = tl.full([block_rows], -1e30, tl.float32)
    total = tl.zeros([block_rows], tl.float32)
    mixed = tl.zeros([block_rows, dim], tl.float32)

    start = tl.load(starts + prompt).to(tl.int64)
    length = tl.load(lengths + prompt)
    for first in range(0, length, block_keys):
        key = first + tl.arange(0, block_keys)
        inside = key < length
        offset = ((start + key) * kv_heads + head) * dim
        k = tl.load(keys + offset[:, None] + column[None, :], mask=inside[:, None], other=0.0)
        v = tl.load(values + offset[:, None] + column[None, :], mask=inside[:, None], other=0.0)
        scores = tl.dot(query, tl.trans(k), input_precision=precision) * scale
        scores = tl.where(inside[None, :], scores, -1e30)
        highest, total, mixed = _attend(scores, v, highest, total, mixed, precision)

    written = tl.load(step).to(tl.int32) * beams
    for first in range(0, written, block_keys):
        number = first + tl.arange(0, block_keys)
        inside = number < written
        when = number // beams
        page = tl.load(pages + prompt * row_pages + when // page_steps, mask=inside, other=0)
        offset = page.to(tl.int64) + when % page_steps * beams + number % beams
        offset = (offset * kv_heads + head) * dim
        k = tl.load(keys + offset[:, None] + column[None, :], mask=inside[:, None], other=0.0)
        v = tl.load(values + offset[:, None] + column[None, :], mask=inside[:, None], other=0.0)
        whose = tl.load(
            ancestors + (prompt * row_steps + when[None, :]) * beams + beam[:, None],
            mask=inside[None, :] & real[:, None],
            other=-1,
        )
        scores = tl.dot(query, tl.trans(k), input_precision=precision) * scale
        scores = tl.where(whose == (number % beams)[None, :], scores, -1e30)
        highest, total, mixed = _attend(scores, v, highest, total, mixed, precision)

    mixed = mixed / total[:, None]
    tl.store(output + at[:, None] + column[None, :], mixed.to(output.dtype.element_ty), mask=real[:, None])


def decode_attention(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    layout: Layout,
    ancestors: torch.Tensor,
    step: torch.Tensor,
) -> torch.Tensor:
    """`attention.decode_attention` as a kernel: one program a prompt and key head, so that beams read each key once."""
    prompts, row_steps, beams = ancestors.shape
    kv_heads, dim = keys.shape[1:]
    group = queries.shape[1] // kv_heads
    output = torch.empty_like(queries)
    settings: dict[str, Any] = {"num_warps": 4, "num_stages": 2}
    _decode_attention[(prompts, kv_heads)](
        queries,
        keys,
        values,
        output,
        layout.starts,
        layout.lengths,
        layout.pages,
        ancestors,
        step,
        dim**-0.5 * 1.4426950408889634,  # exp2 is what the hardware has
        row_pages=layout.pages.shape[1],
        row_steps=row_steps,
        page_steps=PAGE_STEPS,
        beams=beams,
        group=group,
        kv_heads=kv_heads,
        dim=dim,
        block_rows=max(16, triton.next_power_of_2(beams * group)),
        block_keys=_BLOCK_KEYS,
        precision="ieee" if queries.dtype == torch.float32 else "tf32",
        **settings,
    )
    return output.flatten(1)
