"""What the frozen model's language model says of images: the hidden states that heads are trained on."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from m3agiqa.bench.random_weights import write_head
from m3agiqa.contract import Aspect, Failure
from m3agiqa.engine.network import Network
from m3agiqa.engine.pipeline import Pipeline
from m3agiqa.errors import ConfigError, RequestInvalid
from m3agiqa.hub import Resolved
from m3agiqa.jobs import Job
from m3agiqa.model.checkpoints import read_json
from m3agiqa.model.shape import Shape
from m3agiqa.profile import RANDOM, ModelProfile


class Headless(Pipeline):
    """A pipeline whose head does not matter, or is not made yet."""

    @classmethod
    def of(cls, profile: ModelProfile, resolved: Resolved, device: str, batch_size: int = 8) -> Self:
        """Load a profile's base and adapters; `resolved` needs no heads.

        Raises:
            ConfigError, CheckpointError: as `Pipeline.load`.
        """
        if resolved.base is None:
            raise ConfigError(f"profile {profile.name} has random weights: there is nothing to learn from it")
        vocab = read_json(resolved.base / "config.json")["vocab_size"]
        with tempfile.TemporaryDirectory() as folder:
            head = Path(folder) / "head.safetensors"
            write_head(head, Shape(vocab=vocab, head_width=64), seed=0)
            heads = dict.fromkeys(profile.aspects, head)
            return cls.load(profile, replace(resolved, heads=heads), device, max_batch=batch_size)


class Reader(Headless):
    """Reads images exactly as scoring does, keeping the states that the head would have been given."""

    def __init__(self, network: Network, profile: ModelProfile, device: torch.device, **options: Any) -> None:
        self._keeper = _Keeper()
        heads: dict[Aspect, Any] = dict.fromkeys(network.heads, self._keeper)
        super().__init__(replace(network, heads=heads), profile, device, **options)

    def read(self, jobs: Sequence[Job], descriptions: Sequence[str] | None = None) -> list[torch.Tensor | Failure]:
        """States [tokens, hidden] of each image's scoring conversation, in order, or why there are none.

        Args:
            jobs: each for the one aspect of the profile.
            descriptions: what stands in the conversations; None has the model write its own.
        """
        [aspect] = self.aspects
        if descriptions is not None:
            jobs = [replace(job, descriptions={aspect: text}) for job, text in zip(jobs, descriptions, strict=True)]
        self._keeper.kept.clear()
        outcomes = self.run(jobs)
        kept = iter(self._keeper.kept)
        return [next(kept) if aspect in scores.aspects else scores.failures[aspect] for scores in outcomes]


def for_one_aspect(profile: ModelProfile, aspect: Aspect) -> ModelProfile:
    """The profile's one aspect, without its head: whatever it names for that is not even looked for.

    Raises:
        RequestInvalid: the profile does not have the aspect.
    """
    if aspect not in profile.aspects:
        raise RequestInvalid(f"model {profile.name} has no {aspect}, only {', '.join(profile.aspects)}")
    part = profile.aspects[aspect].model_copy(update={"head": RANDOM})
    return profile.model_copy(update={"aspects": {aspect: part}})


class _Keeper(nn.Module):
    """Stands in for a head."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[torch.Tensor] = []

    def forward(self, hidden: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        self.kept += [states[:length].clone() for states, length in zip(hidden, lengths.tolist(), strict=True)]
        return hidden.new_zeros(len(hidden))
