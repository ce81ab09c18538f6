"""What the frozen language model makes of images: the hidden states that heads are trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from m3agiqa.contract import Aspect, Failure
from m3agiqa.engine.scoring import Engine
from m3agiqa.errors import ConfigError, UsageError
from m3agiqa.hub import Resolved
from m3agiqa.jobs import Job
from m3agiqa.profile import RANDOM, ModelProfile


def for_one_aspect(profile: ModelProfile, aspect: Aspect) -> ModelProfile:
    """The profile's one aspect, without its head: nobody even looks for whatever it names for that.

    Raises:
        UsageError: the profile does not have the aspect.
    """
    if aspect not in profile.aspects:
        raise UsageError(f"model {profile.name} has no {aspect}, only {', '.join(profile.aspects)}")
    part = profile.aspects[aspect].model_copy(update={"head": RANDOM})
    return profile.model_copy(update={"aspects": {aspect: part}})


def load_frozen(profile: ModelProfile, resolved: Resolved, device: str, batch_size: int = 8) -> Engine:
    """Load a profile's base and adapters, and no heads.

    Raises:
        ConfigError, CheckpointError: as `Engine.load`; the former also where weights are random.
    """
    if resolved.base is None:
        raise ConfigError(f"profile {profile.name} has random weights: there is nothing to learn from it")
    return Engine.load(profile, resolved, device, max_batch=batch_size, heads=False)


def read_states(
    engine: Engine, jobs: Sequence[Job], descriptions: Sequence[str] | None = None
) -> list[torch.Tensor | Failure]:
    """States [tokens, hidden] of each image's scoring conversation, in order, or why there are none.

    They are read exactly as scoring reads them.

    Args:
        engine: has one aspect.
        jobs: each for that aspect.
        descriptions: what stands in the conversations; None has the model write its own.
    """
    [aspect] = engine.aspects
    if descriptions is not None:
        jobs = [replace(job, descriptions={aspect: text}) for job, text in zip(jobs, descriptions, strict=True)]
    rows = engine.encode(jobs)
    session = engine.prefill(rows)
    engine.describe(rows, session)
    states = iter(engine.read(rows, session))
    return [next(states) if row.failure is None else row.failure for row in rows]
