"""The cache of what the model made of the tokens that a batch has read and written, and its sequences' layout in it."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Self

import torch

from m3agiqa.errors import ScoringOutOfMemory
from m3agiqa.model.language import LlamaShape

#: Steps of decoding that share a page: the slots of all their beams lie in one run.
PAGE_STEPS = 64


class KVCache:
    """A pool of slots, one a token, for keys and values of each layer and for the states of generated tokens.

    It hands out runs of slots, and takes back the last first. Sequences of any length share it without padding. A fixed
    cache never moves, so that captured graphs may refer to it; one that is not fixed grows when it is full.
    """

    def __init__(self, shape: LlamaShape, slots: int, device: torch.device, dtype: torch.dtype, *, fixed: bool) -> None:
        self.slots = slots
        self._fixed = fixed
        self._taken = 0
        self.keys, self.values = (
            [
                torch.zeros(slots, shape.kv_heads, shape.head_dim, device=device, dtype=dtype)
                for _ in range(shape.layers)
            ]
            for _ in range(2)
        )
        #: States after the final norm, [slots, hidden]; only decoding steps write here, prefill returns its own.
        self.states = torch.zeros(slots, shape.hidden, device=device, dtype=dtype)

    @staticmethod
    def slot_bytes(shape: LlamaShape, dtype: torch.dtype) -> int:
        """Bytes of one slot: keys and values in all layers, and a state."""
        return (2 * shape.layers * shape.kv_heads * shape.head_dim + shape.hidden) * dtype.itemsize

    @property
    def taken(self) -> int:
        """Slots that are handed out."""
        return self._taken

    def take(self, slots: int) -> int:
        """The first of `slots` slots in a row.

        Raises:
            ScoringOutOfMemory: too few slots are left; a smaller batch may fit.
        """
        if self._taken + slots > self.slots:
            if self._fixed:
                raise ScoringOutOfMemory(f"the cache's {self.slots} tokens are too few for this batch")
            self._grow(max(2 * self.slots, self._taken + slots))
        start = self._taken
        self._taken += slots
        return start

    def give_back(self, taken: int) -> None:
        """Take back all slots handed out since the property `taken` had this value."""
        self._taken = taken

    def _grow(self, slots: int) -> None:
        def grown(tensor: torch.Tensor) -> torch.Tensor:
            return torch.cat([tensor, tensor.new_zeros(slots - self.slots, *tensor.shape[1:])])

        for pool in (self.keys, self.values):
            pool[:] = [grown(tensor) for tensor in pool]
        self.states = grown(self.states)
        self.slots = slots


@dataclass
class Layout:
    """Where the sequences of P prompts with B beams each lie in the cache."""

    #: First slot and length of each prompt, [P] int32.
    starts: torch.Tensor
    lengths: torch.Tensor
    #: First slot of each page of generated tokens, [P, pages] int32. A page has PAGE_STEPS * B slots, step by step.
    pages: torch.Tensor

    def current(self, step: torch.Tensor, beams: int) -> torch.Tensor:
        """Slots [P * B], int64, of the tokens of `step` ([1] int64)."""
        page = self.pages.index_select(1, step // PAGE_STEPS) + (step % PAGE_STEPS * beams)
        return (page + torch.arange(beams, device=page.device)).flatten().long()

    def select(self, rows: torch.Tensor) -> Self:
        """The layout of some prompts."""
        return replace(self, **{field.name: getattr(self, field.name)[rows] for field in fields(self)})
