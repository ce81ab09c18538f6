"""Decides by a policy: scores go in, a decision with its reasons comes out."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from m3agiqa import config
from m3agiqa.contract import Aspect, AspectScore, Decision, Failure, PolicyRef
from m3agiqa.errors import ConfigError

logger = logging.getLogger(__name__)

#: Decisions about an image without a score. A failure of ours never rejects an image, so "reject" is none of them.
WithoutScore = Literal[Decision.ACCEPT, Decision.REVIEW]

#: Hexadecimal digits of a policy's digest.
_DIGEST_CHARS = 12

#: Fields that a policy's digest leaves out where they say nothing.
_LATER = ("sample_review", "prompt_guard")

#: Aspects whose scores must not depend on what the prompt says.
BLIND = (Aspect.QUALITY, Aspect.AUTHENTICITY)

#: How severe a decision is; the most severe one that an aspect calls for stands.
SEVERITY: Mapping[Decision, int] = {Decision.ACCEPT: 0, Decision.REVIEW: 1, Decision.REJECT: 2}


class Thresholds(BaseModel):
    """An aspect's thresholds on the MOS scale 0..5. A score that equals a threshold passes it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reject_below: float = Field(default=0.0, ge=0, le=5)
    review_below: float = Field(default=0.0, ge=0, le=5)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.reject_below > self.review_below:
            raise ValueError(f"reject_below {self.reject_below} is above review_below {self.review_below}")
        return self


class Policy(BaseModel):
    """One file of `cfg/policies/`. An aspect that it does not name has no influence on the decision."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    version: int = Field(ge=1)
    aspects: dict[Aspect, Thresholds] = Field(min_length=1)
    #: Decision if an aspect that was asked for, and that this policy judges, has no score.
    on_missing: WithoutScore = Decision.REVIEW
    #: Decision if the image as a whole could not be scored.
    on_failure: WithoutScore = Decision.REVIEW
    #: Part of the accepted images that goes to review all the same, so that people see what the policy lets through.
    sample_review: float = Field(default=0.0, ge=0, le=1)
    #: Points on the MOS scale by which quality and authenticity of an image that would be accepted may fall under a
    #: neutral prompt; if one falls further, the image goes to review. Unset, images are scored once.
    prompt_guard: float | None = Field(default=None, gt=0, le=5)
    #: What the thresholds were chosen by, for people to read. It decides nothing, and the digest leaves it out.
    evidence: dict[str, JsonValue] | None = None

    @classmethod
    def load(cls, name: str) -> Self:
        """Load a policy by name or path.

        Raises:
            ConfigError: there is no such policy, or its file is wrong.
        """
        return cls.read(config.find("policies", name))

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a policy's file.

        Raises:
            ConfigError: the file cannot be read, is wrong, or is a copy that still has the original's name in it.
        """
        policy = config.load(path, cls)
        if policy.name != path.stem:
            raise ConfigError(f"{path}: name: must be {path.stem}, as the file's, not {policy.name}: verdicts show it")
        return policy

    @property
    def ref(self) -> PolicyRef:
        # A policy from before these fields existed keeps its digest.
        unsaid = {name for name in _LATER if getattr(self, name) == type(self).model_fields[name].default}
        content = self.model_dump_json(exclude=unsaid | {"evidence"})
        digest = hashlib.sha256(content.encode()).hexdigest()[:_DIGEST_CHARS]
        return PolicyRef(name=self.name, version=self.version, digest=digest)

    def judge(self, aspect: Aspect, score: float) -> Decision:
        """The decision that one aspect's score alone calls for."""
        thresholds = self.aspects.get(aspect)
        return _worst(_judge(aspect, score, thresholds) if thresholds is not None else [])

    def decide(
        self,
        scores: Mapping[Aspect, AspectScore],
        wanted: Sequence[Aspect],
        failure: Failure | None = None,
        *,
        neutral: Mapping[Aspect, float] | None = None,
        drawn_by: str | None = None,
    ) -> tuple[Decision, tuple[str, ...]]:
        """The most severe decision that any aspect calls for, and every reason against "accept".

        Only a score below its threshold rejects; a failure alone leads to `on_failure` at most. `neutral` are scores
        under a neutral prompt, for `prompt_guard`. `drawn_by` is the request id by which an accepted image is drawn for
        review, or not; without it, none is.
        """
        findings = self._judged(scores, wanted, failure)
        if not findings and self.prompt_guard is not None:
            findings += _moved(scores, neutral or {}, self.prompt_guard)
        if not findings and drawn_by is not None and _draw(drawn_by) < self.sample_review:
            findings.append((Decision.REVIEW, f"drawn for review: {100 * self.sample_review:g} % of accepted images"))
        return _worst(findings), tuple(reason for _, reason in findings)

    def guards(self, scores: Mapping[Aspect, AspectScore], wanted: Sequence[Aspect]) -> tuple[Aspect, ...]:
        """Aspects that `prompt_guard` wants scored under a neutral prompt as well; none unless it all is acceptable."""
        if self.prompt_guard is None or self._judged(scores, wanted, None):
            return ()
        return tuple(aspect for aspect in BLIND if aspect in scores)

    def _judged(
        self, scores: Mapping[Aspect, AspectScore], wanted: Sequence[Aspect], failure: Failure | None
    ) -> list[tuple[Decision, str]]:
        findings: list[tuple[Decision, str]] = []
        if failure is not None:
            findings.append((self.on_failure, f"not scored: {failure.code}"))
        for aspect in wanted:
            thresholds = self.aspects.get(aspect)
            if thresholds is None:
                continue
            if aspect in scores:
                findings += _judge(aspect, scores[aspect].score, thresholds)
            elif failure is None:
                findings.append((self.on_missing, f"{aspect} has no score"))
        if failure is None and not any(aspect in self.aspects for aspect in wanted):
            findings.append((self.on_missing, f"policy {self.name} judges none of the aspects asked for"))
        return findings


class Policies:
    """The policies that a worker decides by. Each is read again when its file has changed. Threads may share it.

    If a file becomes wrong, its last content stays in force, and the log says why.

    Raises:
        ConfigError: `default` is neither the name nor the path of a policy. A `shadow` that is none is logged alone.
    """

    def __init__(self, default: str, shadow: str | None = None) -> None:
        self._default = config.find("policies", default)
        self._shadow = shadow
        #: Why there is no policy in shadow, as the log told last.
        self._told = ""
        self._files = config.Files(Policy.read)
        Policy.read(self._default)

    @property
    def default(self) -> Policy:
        return self._current(self._default)

    @property
    def shadow(self) -> Policy | None:
        """The policy in shadow; None if there is none, or it cannot be read."""
        if self._shadow is None:
            return None
        try:
            return self._current(config.find("policies", self._shadow))
        except ConfigError as error:
            if str(error) != self._told:
                self._told = str(error)
                logger.error("no policy is in shadow: %s", error)
            return None

    def named(self, name: str) -> Policy:
        """The policy that a request names.

        Raises:
            ConfigError: there is no such policy, or its file is wrong. The message may be shown to the caller.
        """
        path = config.named("policies", name)
        if path is None:
            raise ConfigError(f"there is no policy {name}")
        return self._current(path)

    def on_failure(self, name: str | None) -> Decision:
        """The decision about an image without a score by the policy of this name, or the default one. A policy that
        cannot be found has it reviewed.
        """
        try:
            return (self.default if name is None else self.named(name)).on_failure
        except ConfigError:
            return Decision.REVIEW

    def _current(self, path: Path) -> Policy:
        policy = self._files.current(path)
        if policy is None:
            raise ConfigError(f"policy {path.stem} cannot be read; the worker's log says why")
        return policy


def _worst(findings: Sequence[tuple[Decision, str]]) -> Decision:
    return max((found for found, _ in findings), key=SEVERITY.__getitem__, default=Decision.ACCEPT)


def _draw(request_id: str) -> float:
    """A number from 0 to 1, below 1, the same for a request each time, and independent of what else is drawn by ids."""
    digest = hashlib.sha256(f"sample_review {request_id}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def _judge(aspect: Aspect, score: float, thresholds: Thresholds) -> list[tuple[Decision, str]]:
    if score < thresholds.reject_below:
        return [(Decision.REJECT, f"{aspect} {_short_of(score, thresholds.reject_below, 'reject_below')}")]
    if score < thresholds.review_below:
        return [(Decision.REVIEW, f"{aspect} {_short_of(score, thresholds.review_below, 'review_below')}")]
    return []


def _moved(
    scores: Mapping[Aspect, AspectScore], neutral: Mapping[Aspect, float], most: float
) -> list[tuple[Decision, str]]:
    """A finding for each score that its prompt may have bought."""
    findings = []
    for aspect in BLIND:
        if aspect not in scores:
            continue
        if aspect not in neutral:
            findings.append((Decision.REVIEW, f"{aspect} was not scored under a neutral prompt"))
        elif (fell := scores[aspect].score - neutral[aspect]) > most:
            findings.append((Decision.REVIEW, f"{aspect} falls by {fell:.2f} under a neutral prompt"))
    return findings


def _short_of(score: float, threshold: float, name: str) -> str:
    """`1.32 < reject_below 1.50`, with as many decimals as make the two numbers look different."""
    decimals = next(decimals for decimals in range(2, 18) if round(score, decimals) < threshold)
    return f"{score:.{decimals}f} < {name} {threshold:.2f}"
