"""Attention as Triton kernels that read the cache where it lies. Import this only where there is a GPU."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from m3agiqa.engine.cache import PAGE_STEPS, Layout

#: Keys that one pass of the decode attention reads.
_BLOCK_KEYS = 64
#: Programs of the decode attention that keep a GPU busy; where prompts are fewer, several share a prompt's keys.
_BUSY_PROGRAMS = 384
#: Most programs that share a prompt's keys.
_MOST_SPLITS = 4
#: Rows (queries times the heads that share a key) and keys of a pass of the prefill attention; both fit the 99 KiB of
#: shared memory that the smaller cards have.
_HALF_BLOCKS = {"block_rows": 64, "block_keys": 64, "num_warps": 4, "num_stages": 3}
_SINGLE_BLOCKS = {"block_rows": 32, "block_keys": 32, "num_warps": 4, "num_stages": 1}
#: exp2 is what the hardware has.
_LOG2_E = 1.4426950408889634


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
    parts,
    starts,
    lengths,
    pages,
    ancestors,
    step,
    scale,
    splits: tl.constexpr,
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
    split = tl.program_id(2)
    row = tl.arange(0, block_rows)
    beam = row // group
    real = row < beams * group
    column = tl.arange(0, dim)
    vector = (prompt * beams + beam) * kv_heads * group + head * group + row % group
    at = vector * dim
    query = tl.load(queries + at[:, None] + column[None, :], mask=real[:, None], other=0.0)
    highest = tl.full([block_rows], -1e30, tl.float32)
    total = tl.zeros([block_rows], tl.float32)
    mixed = tl.zeros([block_rows, dim], tl.float32)

    start = tl.load(starts + prompt).to(tl.int64)
    length = tl.load(lengths + prompt)
    for first in range(split * block_keys, length, splits * block_keys):
        key = first + tl.arange(0, block_keys)
        inside = key < length
        offset = ((start + key) * kv_heads + head) * dim
        k = tl.load(keys + offset[:, None] + column[None, :], mask=inside[:, None], other=0.0)
        v = tl.load(values + offset[:, None] + column[None, :], mask=inside[:, None], other=0.0)
        scores = tl.dot(query, tl.trans(k), input_precision=precision) * scale
        scores = tl.where(inside[None, :], scores, -1e30)
        highest, total, mixed = _attend(scores, v, highest, total, mixed, precision)

    written = tl.load(step).to(tl.int32) * beams
    for first in range(split * block_keys, written, splits * block_keys):
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

    if splits == 1:
        mixed = mixed / total[:, None]
        tl.store(output + at[:, None] + column[None, :], mixed.to(output.dtype.element_ty), mask=real[:, None])
    else:
        part = parts + (vector * splits + split) * (dim + 2)
        tl.store(part[:, None] + column[None, :], mixed, mask=real[:, None])
        tl.store(part + dim, highest, mask=real)
        tl.store(part + dim + 1, total, mask=real)


@triton.jit  # type: ignore[untyped-decorator]
def _join(parts, output, splits: tl.constexpr, dim: tl.constexpr):  # type: ignore[no-untyped-def]
    """Join what the programs that shared a prompt's keys found for one vector."""
    vector = tl.program_id(0)
    column = tl.arange(0, dim)
    part = parts + (vector * splits + tl.arange(0, splits)) * (dim + 2)
    highest = tl.load(part + dim)
    weights = tl.exp2(highest - tl.max(highest, 0))
    total = tl.sum(weights * tl.load(part + dim + 1), 0)
    mixed = tl.sum(weights[:, None] * tl.load(part[:, None] + column[None, :]), 0)
    tl.store(output + vector * dim + column, (mixed / total).to(output.dtype.element_ty))


def decode_attention(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    layout: Layout,
    ancestors: torch.Tensor,
    step: torch.Tensor,
) -> torch.Tensor:
    """`attention.decode_attention` as a kernel: one program a prompt and key head, so that beams read each key once.

    For few prompts, several programs share each prompt's keys, and a second kernel joins what they found.
    """
    prompts, row_steps, beams = ancestors.shape
    kv_heads, dim = keys.shape[1:]
    group = queries.shape[1] // kv_heads
    output = torch.empty_like(queries)
    splits = 1
    while splits < _MOST_SPLITS and 2 * splits * prompts * kv_heads <= _BUSY_PROGRAMS:
        splits *= 2
    parts = torch.empty(output.shape[0] * output.shape[1] * splits * (dim + 2), device=output.device)
    settings: dict[str, Any] = {"num_warps": 4, "num_stages": 2}
    _decode_attention[(prompts, kv_heads, splits)](
        queries,
        keys,
        values,
        output,
        parts,
        layout.starts,
        layout.lengths,
        layout.pages,
        ancestors,
        step,
        dim**-0.5 * _LOG2_E,
        splits=splits,
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
    if splits > 1:
        _join[(output.shape[0] * output.shape[1],)](parts, output, splits=splits, dim=dim, num_warps=1)
    return output.flatten(1)


@triton.jit  # type: ignore[untyped-decorator]
def _prefill_attention(  # type: ignore[no-untyped-def]
    queries,
    keys,
    values,
    slots,
    first_queries,
    first_slots,
    output,
    scale,
    group: tl.constexpr,
    kv_heads: tl.constexpr,
    dim: tl.constexpr,
    block_queries: tl.constexpr,
    block_rows: tl.constexpr,
    block_keys: tl.constexpr,
    precision: tl.constexpr,
):
    # The last queries of a sequence see most, so they begin first.
    block = tl.num_programs(0) - 1 - tl.program_id(0)
    head = tl.program_id(1)
    sequence = tl.program_id(2)
    start = tl.load(first_queries + sequence)
    new = tl.load(first_queries + sequence + 1) - start
    first_slot = tl.load(first_slots + sequence)
    seen = tl.load(first_slots + sequence + 1) - first_slot
    if block * block_queries >= new:
        return
    row = tl.arange(0, block_rows)
    query_number = block * block_queries + row // group
    real = (row < block_queries * group) & (query_number < new)
    column = tl.arange(0, dim)
    at = ((start + query_number).to(tl.int64) * kv_heads * group + head * group + row % group) * dim
    query = tl.load(queries + at[:, None] + column[None, :], mask=real[:, None], other=0.0)
    # Number of the last key that each row sees.
    last = seen - new + query_number
    highest = tl.full([block_rows], -1e30, tl.float32)
    total = tl.zeros([block_rows], tl.float32)
    mixed = tl.zeros([block_rows, dim], tl.float32)
    for first in range(0, tl.minimum(seen - new + (block + 1) * block_queries, seen), block_keys):
        key = first + tl.arange(0, block_keys)
        inside = key < seen
        offset = (tl.load(slots + first_slot + key, mask=inside, other=0) * kv_heads + head) * dim
        k = tl.load(keys + offset[:, None] + column[None, :], mask=inside[:, None], other=0.0)
        v = tl.load(values + offset[:, None] + column[None, :], mask=inside[:, None], other=0.0)
        scores = tl.dot(query, tl.trans(k), input_precision=precision) * scale
        scores = tl.where(key[None, :] <= last[:, None], scores, -1e30)
        highest, total, mixed = _attend(scores, v, highest, total, mixed, precision)
    mixed = mixed / total[:, None]
    tl.store(output + at[:, None] + column[None, :], mixed.to(output.dtype.element_ty), mask=real[:, None])


def prefill_attention(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    slots: torch.Tensor,
    first_queries: torch.Tensor,
    first_slots: torch.Tensor,
    most_queries: int,
) -> torch.Tensor:
    """Causal attention of the new tokens at the end of each sequence over all of its tokens, in the cache.

    Args:
        queries: [tokens, heads, dim], the sequences' new tokens one after the other.
        keys, values: one layer of the cache, [slots, kv heads, dim], the new tokens written.
        slots: int64, slots of each sequence's tokens by position, the sequences one after the other.
        first_queries, first_slots: [sequences + 1] int32, where each sequence begins in `queries` and in `slots`.
        most_queries: new tokens of the sequence that has most.

    Returns:
        [tokens, heads * dim].
    """
    kv_heads, dim = keys.shape[1:]
    group = queries.shape[1] // kv_heads
    blocks: dict[str, Any] = _SINGLE_BLOCKS if queries.dtype == torch.float32 else _HALF_BLOCKS
    block_queries = blocks["block_rows"] // group
    output = torch.empty_like(queries)
    _prefill_attention[(triton.cdiv(most_queries, block_queries), kv_heads, len(first_queries) - 1)](
        queries,
        keys,
        values,
        slots,
        first_queries,
        first_slots,
        output,
        dim**-0.5 * _LOG2_E,
        group=group,
        kv_heads=kv_heads,
        dim=dim,
        block_queries=block_queries,
        precision="ieee" if queries.dtype == torch.float32 else "tf32",
        **blocks,
    )
    return output.flatten(1)
