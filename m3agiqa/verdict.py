"""Puts a verdict together from the outcome of scoring."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from pydantic import JsonValue

from m3agiqa.contract import Aspect, Failure, ImageInfo, ModelInfo, Verdict
from m3agiqa.jobs import Scores
from m3agiqa.policy import Policy


class Request(Protocol):
    """The part of a request that its verdict repeats; a `ScoreRequest` has it."""

    @property
    def request_id(self) -> str: ...
    @property
    def submitted_at(self) -> datetime: ...
    @property
    def metadata(self) -> dict[str, JsonValue]: ...


@dataclass(frozen=True)
class LocalRequest:
    """A request for an image on this disk, which came through no queue."""

    request_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    submitted_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    metadata: dict[str, JsonValue] = field(default_factory=dict)


def assemble(
    request: Request,
    outcome: Scores | Failure,
    wanted: Sequence[Aspect],
    *,
    policy: Policy,
    model: ModelInfo | None,
    image: ImageInfo | None = None,
    timings_ms: Mapping[str, float] | None = None,
    attempt: int = 1,
) -> Verdict:
    """Decide by `policy` and put everything together that the caller receives.

    `outcome` is a Failure if the image as a whole could not be scored (because it was not fetched, say). `model` is
    None if that happened before a model was loaded. `timings_ms` holds the caller's own stages, before the scorer's.
    """
    error: Failure | None
    if isinstance(outcome, Failure):
        error = outcome
        outcome = Scores({})
        decision, reasons = policy.decide({}, wanted, error)
    else:
        error = next(iter(outcome.failures.values()), None)
        decision, reasons = policy.decide(outcome.aspects, wanted)
    if outcome.aspects and model is not None and not model.trained:
        reasons = (*reasons, "the model is untrained: its scores mean nothing")
    return Verdict(
        request_id=request.request_id,
        status="scored" if error is None else "failed",
        decision=decision,
        reasons=reasons,
        aspects=dict(outcome.aspects),
        policy=policy.ref,
        model=model,
        image=image,
        timings_ms={name: round(value, 3) for name, value in {**(timings_ms or {}), **outcome.timings_ms}.items()},
        batch=outcome.batch,
        attempt=attempt,
        submitted_at=request.submitted_at,
        scored_at=datetime.now(UTC),
        metadata=request.metadata,
        error=error,
    )
