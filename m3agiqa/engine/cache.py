"""Keys and values of everything a batch has read and written, in one pool per layer."""

from __future__ import annotations

import torch

from m3agiqa.errors import ScoringOutOfMemory
from m3agiqa.model.language import LlamaShape


class KVCache:
    """A pool of places, one a token; runs of them are handed out and all taken back together.

    Sequences of any length share it without padding, and its tensors never move, so that captured graphs may refer to
    them.
    """

    def __init__(self, shape: LlamaShape, places: int, device: torch.device, dtype: torch.dtype) -> None:
        size = (places, shape.kv_heads, shape.head_dim)
        self.keys = [torch.zeros(size, device=device, dtype=dtype) for _ in range(shape.layers)]
        self.values = [torch.zeros(size, device=device, dtype=dtype) for _ in range(shape.layers)]
        self.places = places
        self._taken = self._kept = 0

    @staticmethod
    def place_bytes(shape: LlamaShape, dtype: torch.dtype) -> int:
        return 2 * shape.layers * shape.kv_heads * shape.head_dim * dtype.itemsize

    def take(self, places: int) -> int:
        """The first of `places` places in a row.

        Raises:
            ScoringOutOfMemory: there are not so many left; a smaller batch may fit.
        """
        if self._taken + places > self.places:
            raise ScoringOutOfMemory(f"the cache's {self.places} tokens are too few for this batch")
        start = self._taken
        self._taken += places
        return start

    def keep(self) -> None:
        """What is taken now stays taken."""
        self._kept = self._taken

    def clear(self) -> None:
        """Take back all but what is to be kept."""
        self._taken = self._kept
