"""Decides by a policy: scores go in, a decision with its reasons comes out."""

from __future__ import annotations

import hashlib
import logging
import threading
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

_SEVERITY = {Decision.ACCEPT: 0, Decision.REVIEW: 1, Decision.REJECT: 2}


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
        digest = hashlib.sha256(self.model_dump_json(exclude={"evidence"}).encode()).hexdigest()[:_DIGEST_CHARS]
        return PolicyRef(name=self.name, version=self.version, digest=digest)

    def decide(
        self,
        scores: Mapping[Aspect, AspectScore],
        wanted: Sequence[Aspect],
        failure: Failure | None = None,
    ) -> tuple[Decision, tuple[str, ...]]:
        """The most severe decision that any aspect calls for, and every reason against "accept".

        Only a score below its threshold rejects; a failure alone leads to `on_failure` at most.
        """
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
        decision = max((found for found, _ in findings), key=_SEVERITY.__getitem__, default=Decision.ACCEPT)
        return decision, tuple(reason for _, reason in findings)


#: Changes when a file's content does: nanoseconds of its last change, bytes, inode. None if the file is gone.
_Stamp = tuple[int, int, int] | None


class Policies:
    """The policies that a worker decides by. Each is read again when its file has changed. Threads may share it.

    If a file becomes wrong, its last content stays in force, and the log says why.

    Raises:
        ConfigError: `default` is neither the name nor the path of a policy.
    """

    def __init__(self, default: str) -> None:
        self._default = config.find("policies", default)
        self._lock = threading.Lock()
        self._read: dict[Path, tuple[_Stamp, Policy]] = {self._default: (_stamp(self._default), Policy.load(default))}

    @property
    def default(self) -> Policy:
        return self._current(self._default)

    def named(self, name: str) -> Policy:
        """The policy that a request names.

        Raises:
            ConfigError: there is no such policy, or its file is wrong. The message may be shown to the caller.
        """
        path = config.named("policies", name)
        if path is None:
            raise ConfigError(f"there is no policy {name}")
        return self._current(path)

    def _current(self, path: Path) -> Policy:
        stamp = _stamp(path)
        with self._lock:
            known = self._read.get(path)
            if known is not None and known[0] == stamp:
                return known[1]
            try:
                policy = Policy.read(path)
            except ConfigError as error:
                logger.error("%s; %s", error, "its last content stays in force" if known else "it is not used")
                if known is None:
                    raise ConfigError(f"policy {path.stem} cannot be read; the worker's log says why") from None
                policy = known[1]
            self._read[path] = stamp, policy
            return policy


def _stamp(path: Path) -> _Stamp:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _judge(aspect: Aspect, score: float, thresholds: Thresholds) -> list[tuple[Decision, str]]:
    if score < thresholds.reject_below:
        return [(Decision.REJECT, f"{aspect} {_short_of(score, thresholds.reject_below, 'reject_below')}")]
    if score < thresholds.review_below:
        return [(Decision.REVIEW, f"{aspect} {_short_of(score, thresholds.review_below, 'review_below')}")]
    return []


def _short_of(score: float, threshold: float, name: str) -> str:
    """`1.32 < reject_below 1.50`, with as many decimals as make the two numbers look different."""
    decimals = next(decimals for decimals in range(2, 18) if round(score, decimals) < threshold)
    return f"{score:.{decimals}f} < {name} {threshold:.2f}"
