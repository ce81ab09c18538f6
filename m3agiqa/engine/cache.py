"""Keys and values of everything a batch has read and written, in one pool per layer."""

from __future__ import annotations

import torch

from m3agiqa.errors import ScoringOutOfMemory
from m3agiqa.model.language import LlamaShape


class KVCache:
    """A pool of places, one a token; runs of them are handed out, and taken back the last first.

    Sequences of any length share it without padding. A fixed one never moves, so that captured graphs may refer to it;
    one that is not grows as it must.
    """

    def __init__(
        self, shape: LlamaShape, places: int, device: torch.device, dtype: torch.dtype, *, fixed: bool
    ) -> None:
        self.places = places
        self._fixed = fixed
        self._taken = 0
        self.keys, self.values = (
            [
                torch.zeros(places, shape.kv_heads, shape.head_dim, device=device, dtype=dtype)
                for _ in range(shape.layers)
            ]
            for _ in range(2)
        )

    @staticmethod
    def place_bytes(shape: LlamaShape, dtype: torch.dtype) -> int:
        return 2 * shape.layers * shape.kv_heads * shape.head_dim * dtype.itemsize

    @property
    def taken(self) -> int:
        return self._taken

    def take(self, places: int) -> int:
        """The first of `places` places in a row.

        Raises:
            ScoringOutOfMemory: there are not so many left; a smaller batch may fit.
        """
        if self._taken + places > self.places:
            if self._fixed:
                raise ScoringOutOfMemory(f"the cache's {self.places} tokens are too few for this batch")
            self._grow(max(2 * self.places, self._taken + places))
        start = self._taken
        self._taken += places
        return start

    def give_back(self, taken: int) -> None:
        """Take back all that was handed out since `taken` was what it says."""
        self._taken = taken

    def _grow(self, places: int) -> None:
        for pool in (self.keys, self.values):
            for layer, tensor in enumerate(pool):
                pool[layer] = torch.cat([tensor, tensor.new_zeros(places - self.places, *tensor.shape[1:])])
        self.places = places
