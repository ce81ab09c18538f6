"""Low-rank changes of several adapters, applied to rows grouped by adapter and never merged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch


@dataclass(frozen=True)
class Groups:
    """Which rows belong to which adapter: contiguous, in order."""

    #: (adapter, rows).
    parts: tuple[tuple[int, slice], ...]
    #: Whether all adapters have equally many rows, in the adapters' order, so that one batched product serves all.
    uniform: bool

    @classmethod
    def from_counts(cls, counts: Sequence[tuple[int, int]], adapters: int) -> Groups:
        """The groups of `counts`: (adapter, number of rows) in order."""
        parts, start = [], 0
        for adapter, rows in counts:
            parts.append((adapter, slice(start, start + rows)))
            start += rows
        uniform = [adapter for adapter, _ in counts] == list(range(adapters)) and len({rows for _, rows in counts}) == 1
        return cls(tuple(parts), uniform)

    @classmethod
    def from_sequences(cls, numbers: Iterable[int], lengths: Iterable[int], adapters: int) -> Groups:
        """The tokens of sequences laid end to end, sorted by the number of their adapter."""
        by_adapter = groupby(zip(numbers, lengths, strict=True), lambda pair: pair[0])
        counts = [(adapter, sum(length for _, length in pairs)) for adapter, pairs in by_adapter]
        return cls.from_counts(counts, adapters)


@dataclass(frozen=True)
class LowRank:
    """Adapters' changes to one layer, whose weight has all adapters' A below its own rows: one product serves both.

    So every row is reduced by each adapter, at little cost, and goes on with its own.
    """

    #: B, [adapters, rank, out], which holds the scaling.
    b: torch.Tensor

    def added(self, output: torch.Tensor, groups: Groups) -> torch.Tensor:
        """Add each row's own change to the layer's output; gives a view [rows, out].

        Args:
            output: [rows, out + adapters * rank], by the layer's whole weight; overwritten.
        """
        adapters, rank, out = self.b.shape
        changed = output[:, :out]
        if groups.uniform:
            rows, width = len(output) // adapters, output.shape[1]
            # Of each adapter's rows, the columns that are its own.
            reduced = output.as_strided((adapters, rows, rank), (rows * width + rank, width, 1), out)
            grouped = changed.unflatten(0, (adapters, rows))
            torch.baddbmm(grouped, reduced, self.b, out=grouped)
        else:
            for adapter, part in groups.parts:
                first = out + adapter * rank
                changed[part].addmm_(output[part, first : first + rank], self.b[adapter])
        return changed


def block_diagonal(
    blocks: Sequence[tuple[torch.Tensor, torch.Tensor] | None], outs: Sequence[int], rank: int, like: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """One adapter's (A [r, in], B [out, r]) of n layers fused side by side: [n * rank, in] and [n * rank, sum outs].

    `rank` is the largest rank of all. Lower ranks, and layers the adapter leaves alone (None), are padded with zeros.
    """
    a = like.new_zeros(len(blocks) * rank, like.shape[1])
    b = like.new_zeros(len(blocks) * rank, sum(outs))
    column = 0
    for index, (block, out) in enumerate(zip(blocks, outs, strict=True)):
        if block is not None:
            lora_a, lora_b = block
            start = index * rank
            a[start : start + len(lora_a)] = lora_a
            b[start : start + len(lora_a), column : column + out] = lora_b.T
        column += out
    return a, b
