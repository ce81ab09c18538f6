"""Puts a verdict together from the outcome of scoring."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from pydantic import JsonValue

from m3agiqa.contract import Asked, Aspect, Failure, ImageInfo, ModelInfo, Verdict
from m3agiqa.deciding import decide
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
    @property
    def batch_id(self) -> str | None: ...
    @property
    def tenant(self) -> str | None: ...


@dataclass(frozen=True)
class LocalRequest:
    """A request for an image on this disk, which came through no queue."""

    request_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    submitted_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    metadata: dict[str, JsonValue] = field(default_factory=dict)
    batch_id: str | None = None
    tenant: str | None = None


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
    asked: Asked | None = None,
) -> Verdict:
    """Decide by `policy` and put everything together that the caller receives.

    `outcome` is a Failure if the image as a whole could not be scored (because it was not fetched, say). `model` is
    None if that happened before a model was loaded. `timings_ms` holds the caller's own stages, before the scorer's.
    `asked` is what the verdict repeats of its request.
    """
    failure = outcome if isinstance(outcome, Failure) else None
    scores = Scores({}) if isinstance(outcome, Failure) else outcome
    error = failure or next(iter(scores.failures.values()), None)
    decision, reasons = decide(
        policy, request.request_id, scores.aspects, wanted, failure=failure, model=model, neutral=scores.neutral
    )
    return Verdict(
        request_id=request.request_id,
        status="scored" if error is None else "failed",
        decision=decision,
        reasons=reasons,
        aspects=dict(scores.aspects),
        policy=policy.ref,
        model=model,
        image=image,
        timings_ms={name: round(value, 3) for name, value in {**(timings_ms or {}), **scores.timings_ms}.items()},
        batch=scores.batch,
        attempt=attempt,
        submitted_at=request.submitted_at,
        scored_at=datetime.now(UTC),
        metadata=request.metadata,
        error=error,
        failures=dict(scores.failures),
        neutral=dict(scores.neutral),
        request=asked,
        batch_id=request.batch_id,
        tenant=request.tenant,
    )
