"""Decides by a policy about a verdict: as it is made, in shadow beside another policy, or anew from its scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from m3agiqa.contract import (
    REDECIDED,
    VERSION,
    Aspect,
    AspectScore,
    Decision,
    Failure,
    ModelInfo,
    Redecided,
    ShadowDecision,
    Verdict,
)
from m3agiqa.policy import Policy


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
