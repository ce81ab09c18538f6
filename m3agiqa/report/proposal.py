"""The policy that a calibration leads to, with its evidence: what it promises, how that was found, and from what."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from m3agiqa.contract import Aspect
from m3agiqa.errors import ConfigError, DataError
from m3agiqa.outputs import write
from m3agiqa.paths import is_file
from m3agiqa.policy import Policy, Thresholds
from m3agiqa.report.calibration import Goal, Rate, Rule, Threshold
from m3agiqa.report.judged import Judged

_FIELDS = {"reject_below", "review_below"}
#: Decimals of a rate in an evidence.
_DECIMALS = 5


@dataclass(frozen=True)
class Found:
    """A threshold that was found for a goal, and the rule along which it was looked for."""

    goal: Goal
    wanted: float
    rule: Rule
    threshold: Threshold
    #: Whether images count that the policy sends to review, and not rejected ones alone.
    with_review: bool = False
    #: Images that the promise is about; None for all that ever come.
    upcoming: int | None = None

    @property
    def thresholds(self) -> dict[Aspect, float]:
        return self.rule.thresholds(self.threshold.position, self.goal)

    @property
    def promise(self) -> str:
        share = f"{100 * self.wanted:g} %"
        images = f"the {f'next {self.upcoming} ' if self.upcoming else ''}images"
        if self.goal is Goal.FALSE_REJECT:
            return f"at most {share} of {images} that a person would accept are rejected"
        treated = "rejected or sent to review" if self.with_review else "rejected"
        return f"at least {share} of {images} that a person would reject are {treated}"


def rule(policy: Policy, aspects: Sequence[Aspect], field: str = "reject_below") -> Rule:
    """The rule that moves the thresholds `field` of `aspects`, in the proportions that they have in `policy`.

    An aspect without such a threshold takes the proportion of its other one. Without any, all aspects get the same.
    """
    [other] = _FIELDS - {field}
    known = {aspect: policy.aspects.get(aspect, Thresholds()) for aspect in aspects}
    heights = {aspect: getattr(each, field) or getattr(each, other) for aspect, each in known.items()}
    if not all(heights.values()):
        heights = dict.fromkeys(aspects, 1.0)
    return Rule({aspect: height / max(heights.values()) for aspect, height in heights.items()})


def rejecting(policy: Policy) -> tuple[Aspect, ...]:
    """The aspects by which a policy rejects; all that it judges, if it rejects by none."""
    return tuple(aspect for aspect, each in policy.aspects.items() if each.reject_below > 0) or tuple(policy.aspects)


def proposed(
    policy: Policy, name: str, version: int, reject: Found, review: Found | None, evidence: dict[str, JsonValue]
) -> Policy:
    """`policy` with the thresholds that were found. No other aspect rejects, as nothing would be promised then."""
    rejected = reject.thresholds
    reviewed = review.thresholds if review else {aspect: each.review_below for aspect, each in policy.aspects.items()}
    aspects = {
        aspect: Thresholds(
            reject_below=rejected.get(aspect, 0.0),
            review_below=max(reviewed.get(aspect, 0.0), rejected.get(aspect, 0.0)),
        )
        for aspect in Aspect
        if aspect in policy.aspects or aspect in rejected or aspect in reviewed
    }
    return policy.model_copy(update={"name": name, "version": version, "aspects": aspects, "evidence": evidence})


def next_version(path: Path) -> int:
    """The version of a policy that is about to be written: one more than that of the policy that is there.

    Raises:
        DataError: something else is there, which would be lost.
    """
    if not is_file(path):
        return 1
    try:
        return Policy.read(path).version + 1
    except ConfigError as error:
        raise DataError(f"{path} would be replaced, and is no policy of that name: {error}") from None


def write_policy(policy: Policy, path: Path) -> None:
    """Write a policy's file.

    Raises:
        OutputError: it cannot be written.
    """
    import yaml

    content = policy.model_dump(mode="json", exclude_none=True)
    write(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110))


def evidence(found: Iterable[Found], confidence: float, facts: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """What a calibration promises and found, with `facts` about what it was made from."""
    return {
        "promises": [f"with {100 * confidence:g} % confidence, {each.promise}" for each in found],
        "date": datetime.now(UTC).date().isoformat(),
        **facts,
        "rates": {_name(each): _rates(each, confidence) for each in found},
    }


def content_digest(images: Iterable[Judged]) -> str:
    """SHA-256 of the ids, models and scores of images, in whatever order and form they are kept."""
    lines = sorted(
        json.dumps([image.id, image.model, {aspect: each.score for aspect, each in sorted(image.scores.items())}])
        for image in images
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _name(found: Found) -> str:
    return "rejected or sent to review" if found.with_review else "rejected"


def _rates(found: Found, confidence: float) -> dict[str, JsonValue]:
    words = {Goal.FALSE_REJECT: "of good images", Goal.CATCH: "of bad images"}
    return {words[goal]: rate_as_json(rate, confidence) for goal, rate in found.threshold.rates.items()}


def rate_as_json(rate: Rate, confidence: float) -> dict[str, Any]:
    """A rate with its interval; null for a rate that no image tells of."""
    return {
        "estimate": None if math.isnan(rate.estimate) else round(rate.estimate, _DECIMALS),
        "interval": [round(rate.low, _DECIMALS), round(rate.high, _DECIMALS)],
        "confidence": confidence,
    }
