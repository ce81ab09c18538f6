"""Attention over the cache: for new tokens of many sequences, and for one new token of every beam."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.nn.utils.rnn import pad_sequence

from m3agiqa.engine import ops
from m3agiqa.engine.cache import PAGE_STEPS, KVCache, Layout


class PrefillAttention:
    """Attention of new tokens at the end of each sequence; earlier ones are in the cache.

    Args:
        frequencies: frequencies of the rotary position embedding, [dim / 2] float32, on the model's device.
        slots: slots of each sequence's tokens in the cache, [length] int64 on the host, by position.
        known: tokens of each sequence that are in the cache.
        new: tokens of each sequence that come now.
    """

    def __init__(
        self,
        cache: KVCache,
        frequencies: torch.Tensor,
        slots: Sequence[torch.Tensor],
        known: Sequence[int],
        new: Sequence[int],
    ) -> None:
        self._cache, self._frequencies = cache, frequencies
        device = frequencies.device
        seen = [each[: count + more] for each, count, more in zip(slots, known, new, strict=True)]
        spans = zip(known, new, strict=True)
        self._positions = ops.moved(torch.cat([torch.arange(count, count + more) for count, more in spans]), device)
        written = [each[count:] for each, count in zip(seen, known, strict=True)]
        self._slots = ops.moved(torch.cat(written), device)
        self._attend: _BySlots | _Padded
        self._attend = _BySlots(seen, new, device) if device.type == "cuda" else _Padded(seen, known, new)

    def __call__(self, layer: int, qkv: torch.Tensor) -> torch.Tensor:
        keys, values = self._cache.keys[layer], self._cache.values[layer]
        queries = ops.rotate_and_store(qkv, self._positions, self._frequencies, self._slots, keys, values)
        return self._attend(queries, keys, values)


class _BySlots:
    """Attention by a kernel that reads keys and values where they lie."""

    def __init__(self, seen: Sequence[torch.Tensor], new: Sequence[int], device: torch.device) -> None:
        self._slots = ops.moved(torch.cat(list(seen)), device)
        firsts = ([0, *accumulate(new)], [0, *accumulate(map(len, seen))])
        self._first_queries, self._first_slots = ops.moved(torch.tensor(firsts, dtype=torch.int32), device)
        self._most = max(new)

    def __call__(self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        from m3agiqa.engine.attention_kernels import prefill_attention

        firsts = self._first_queries, self._first_slots
        attended: torch.Tensor = prefill_attention(queries, keys, values, self._slots, *firsts, self._most)
        return attended


class _Padded:
    """Attention by torch, the sequences padded to one another."""

    def __init__(self, seen: Sequence[torch.Tensor], known: Sequence[int], new: Sequence[int]) -> None:
        counts = torch.tensor(new)
        self._rows = torch.arange(len(new)).repeat_interleave(counts)
        self._offsets = torch.cat([torch.arange(count) for count in new])
        padded = pad_sequence(list(seen), batch_first=True, padding_value=-1)
        # A row's padding is its own first slot: another's may hold NaN, which no mask keeps out of a product.
        self._seen = torch.where(padded < 0, padded[:, :1], padded)
        last = torch.tensor(known)[:, None] + torch.arange(max(new))
        self._mask = torch.arange(padded.shape[1]) <= last[..., None]

    def __call__(self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        padded = queries.new_zeros(*self._mask.shape[:2], *queries.shape[1:])
        padded[self._rows, self._offsets] = queries
        attended = _attend(padded.transpose(1, 2), keys[self._seen], values[self._seen], self._mask)
        return attended.transpose(1, 2)[self._rows, self._offsets].flatten(1)


def decode_attention(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    layout: Layout,
    ancestors: torch.Tensor,
    step: torch.Tensor,
) -> torch.Tensor:
    """Attention of every beam's newest token over its prompt and its own past.

    Beams share the prompt, and each beam reads the tokens that all of them generated; `ancestors` says which of those
    are its own past. So reordering beams moves no keys or values.

    Args:
        queries: [P * B, heads, dim].
        keys, values: one layer of the cache, [slots, kv heads, dim], the newest tokens written.
        layout: where the prompts lie.
        ancestors: [P, T, B] int32: the beam that computed, at each step, the past of a beam.
        step: [1] int64: tokens generated so far, the newest included.

    Returns:
        [P * B, heads * dim].
    """
    if queries.is_cuda:
        from m3agiqa.engine.attention_kernels import decode_attention as on_gpu

        return on_gpu(queries, keys, values, layout, ancestors, step)
    prompts, beams = len(layout.starts), ancestors.shape[2]
    offsets = torch.arange(int(layout.lengths.max()))
    in_prompt = offsets < layout.lengths[:, None]
    slots = torch.where(in_prompt, layout.starts[:, None] + offsets, layout.starts[:, None])
    steps, numbers = torch.arange(int(step)), torch.arange(beams)
    written = layout.pages[:, steps // PAGE_STEPS, None] + (steps % PAGE_STEPS * beams)[:, None] + numbers
    own = ancestors[:, : len(steps)].permute(0, 2, 1)[..., None] == numbers
    slots = torch.cat([slots, written.flatten(1)], dim=1).long()
    mask = torch.cat([in_prompt[:, None].expand(-1, beams, -1), own.flatten(2)], dim=2)
    attended = _attend(queries.unflatten(0, (prompts, beams)).transpose(1, 2), keys[slots], values[slots], mask)
    return attended.transpose(1, 2).flatten(0, 1).flatten(1)


def _attend(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Attention of query heads that share keys: their queries come one after the other, so that no key is repeated.

    Args:
        queries: [rows, heads, new, dim].
        keys, values: [rows, seen, kv heads, dim].
        mask: [rows, new, seen], what each query may see.

    Returns:
        [rows, heads, new, dim].
    """
    kv_heads = keys.shape[2]
    group = queries.shape[1] // kv_heads
    attended = scaled_dot_product_attention(
        queries.unflatten(1, (kv_heads, group)).flatten(2, 3),
        keys.transpose(1, 2),
        values.transpose(1, 2),
        attn_mask=mask.repeat(1, group, 1)[:, None],
    )
    by_head: torch.Tensor = attended.unflatten(2, (group, -1)).flatten(1, 2)
    return by_head
