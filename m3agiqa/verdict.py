"""Puts a verdict together from the outcome of scoring, or anew from the scores of an older one."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from pydantic import JsonValue

from m3agiqa.contract import (
    REDECIDED,
    VERSION,
    Asked,
    Aspect,
    AspectScore,
    Decision,
    Failure,
    ImageInfo,
    ModelInfo,
    Redecided,
    ShadowDecision,
    Verdict,
)
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


def decide(
    policy: Policy,
    request_id: str,
    aspects: Mapping[Aspect, AspectScore],
    wanted: Sequence[Aspect],
    *,
    failure: Failure | None = None,
    model: ModelInfo | None = None,
    neutral: Mapping[Aspect, float] | None = None,
) -> tuple[Decision, tuple[str, ...]]:
    """What `policy` makes of an image's scores, for a verdict. `failure` says why the image as a whole has none;
    `neutral` are its scores under a neutral prompt.
    """
    is_trained = model is None or model.trained
    is_scored = failure is None and all(aspect in aspects for aspect in wanted)
    drawn_by = request_id if is_scored and is_trained else None
    decision, reasons = policy.decide(aspects, wanted, failure, neutral=neutral, drawn_by=drawn_by)
    if aspects and not is_trained:
        reasons = (*reasons, "the model is untrained: its scores mean nothing")
    return decision, reasons


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
    )


def asked_for(verdict: Verdict) -> tuple[Aspect, ...]:
    """The aspects that were asked for, as far as a verdict tells; none where the image as a whole failed.

    A verdict before version 1.2 does not tell which aspects failed alone: those of its model that have no score count.
    """
    if verdict.status == "scored":
        return tuple(verdict.aspects)
    failed = verdict.failures or (verdict.model.heads if verdict.model and verdict.aspects else {})
    return tuple(aspect for aspect in Aspect if aspect in verdict.aspects or aspect in failed)


def decided_by(verdict: Verdict, policy: Policy) -> tuple[Decision, tuple[str, ...]]:
    """What `policy` makes of the scores that a verdict holds."""
    asked = asked_for(verdict)
    failure = None if asked else verdict.error
    return decide(
        policy,
        verdict.request_id,
        verdict.aspects,
        asked,
        failure=failure,
        model=verdict.model,
        neutral=verdict.neutral,
    )


def with_shadow(verdict: Verdict, policy: Policy) -> Verdict:
    """The verdict with what another policy, which is in shadow, would have decided."""
    decision, reasons = decided_by(verdict, policy)
    shadow = ShadowDecision(policy=policy.ref, decision=decision, reasons=reasons)
    return verdict.model_copy(update={"shadow": shadow})


def redecided(verdict: Verdict, policy: Policy, at: datetime) -> Verdict:
    """The verdict that `policy` makes of the same scores at a time."""
    decision, reasons = decided_by(verdict, policy)
    before = Redecided(decision=verdict.decision, policy=verdict.policy, at=at)
    changed = {"decision": decision, "reasons": reasons, "policy": policy.ref, "redecided": before, "shadow": None}
    return verdict.model_copy(update={"version": VERSION, "type": REDECIDED, **changed})
