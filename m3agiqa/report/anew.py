"""Decides anew about images that were scored before."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from m3agiqa import deciding
from m3agiqa.batch import Record
from m3agiqa.contract import Aspect, Decision, Verdict
from m3agiqa.policy import Policy
from m3agiqa.report.judged import Judged


def decided_by(item: Judged, policy: Policy) -> tuple[Decision, tuple[str, ...]]:
    """What `policy` makes of an image's scores, and every reason against "accept"."""
    if item.verdict is not None:
        return deciding.decided_by(item.verdict, policy)
    return policy.decide(item.scores, item.asked, None if item.scores else item.failure)


def anew(item: Judged, policy: Policy, at: datetime) -> list[Verdict] | list[Record]:
    """What says that `policy` decided about an image at a time, in the form of its source: a verdict, or the rows of
    `m3agiqa batch`.
    """
    if item.verdict is not None:
        return [deciding.redecided(item.verdict, policy, at)]
    decision, reasons = decided_by(item, policy)
    return [_row(item, aspect, policy, decision, reasons) for aspect in item.asked]


def flipped(item: Judged, old: Policy, new: Policy, at: datetime) -> list[Verdict] | list[Record]:
    """As `anew` by the policy `new`, where `old` decided before, whatever the source says."""
    if item.verdict is not None:
        item = replace(item, verdict=deciding.redecided(item.verdict, old, at))
    return anew(item, new, at)


def _row(item: Judged, aspect: Aspect, policy: Policy, decision: Decision, reasons: tuple[str, ...]) -> Record:
    scored = item.scores.get(aspect)
    return Record.of_aspect(
        aspect,
        scored,
        item.failure if scored is None else None,
        image_path=item.id,
        prompt=item.prompt or "",
        decision=decision,
        reasons=reasons,
        aspects=item.asked,
        model=item.model,
        policy=policy.ref.label,
        image_sha256=item.image_sha256,
    )
