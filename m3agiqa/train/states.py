"""What the frozen model's language model says of pictures: the hidden states that heads are trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from m3agiqa.contract import Aspect, Failure
from m3agiqa.engine.network import Network
from m3agiqa.engine.pipeline import Pipeline, Row
from m3agiqa.engine.session import Session
from m3agiqa.jobs import Job
from m3agiqa.profile import ModelProfile


class Reader(Pipeline):
    """Reads pictures exactly as scoring does, keeping the states that the head would have been given."""

    def __init__(self, network: Network, profile: ModelProfile, device: torch.device, **options: Any) -> None:
        self._keeper = _Keeper()
        heads: dict[Aspect, Any] = dict.fromkeys(network.heads, self._keeper)
        super().__init__(replace(network, heads=heads), profile, device, **options)
        self._given: Sequence[str] | None = None

    def read(self, jobs: Sequence[Job], descriptions: Sequence[str] | None = None) -> list[torch.Tensor | Failure]:
        """States [tokens, hidden] of each picture's scoring conversation, in order, or why there are none.

        Args:
            jobs: each for the one aspect of the profile.
            descriptions: what stands in the conversations; None has the model write its own.
        """
        [aspect] = self.aspects
        self._given = descriptions
        self._keeper.kept.clear()
        outcomes = self.run(jobs)
        kept = iter(self._keeper.kept)
        return [next(kept) if aspect in scores.aspects else scores.failures[aspect] for scores in outcomes]

    def _describe(self, rows: Sequence[Row], prompts: Sequence[torch.Tensor]) -> Session:
        if self._given is None:
            return super()._describe(rows, prompts)
        for row in rows:
            row.description = self._given[row.job]
        return self._engine.session(prompts, [self._network.adapters[row.aspect] for row in rows])


class _Keeper(nn.Module):
    """Stands in for a head."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[torch.Tensor] = []

    def forward(self, hidden: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        self.kept += [states[:length].clone() for states, length in zip(hidden, lengths.tolist(), strict=True)]
        return hidden.new_zeros(len(hidden))
