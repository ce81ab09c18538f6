"""Where in the cache the sequences of a batch lie."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Self

import torch

#: Steps whose beams' places lie in one run of the cache.
PAGE_STEPS = 64


@dataclass
class Layout:
    """Where the sequences of P prompts with B beams each lie in the cache."""

    #: First place and length of each prompt, [P] int32.
    starts: torch.Tensor
    lengths: torch.Tensor
    #: First place of each page of generated tokens, [P, pages] int32. A page has PAGE_STEPS * B places, step by step.
    pages: torch.Tensor

    def current(self, step: torch.Tensor, beams: int) -> torch.Tensor:
        """Places [P * B], int64, of the tokens of `step` ([1] int64)."""
        page = self.pages.index_select(1, step // PAGE_STEPS) + (step % PAGE_STEPS * beams)
        return (page + torch.arange(beams, device=page.device)).flatten().long()

    def select(self, rows: torch.Tensor) -> Self:
        return replace(self, **{field.name: getattr(self, field.name)[rows] for field in fields(self)})
