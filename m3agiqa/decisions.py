"""What a policy made of scores, as verdicts tell it."""

from __future__ import annotations

from enum import StrEnum

from pydantic import AwareDatetime

from m3agiqa.fields import Wire


class Decision(StrEnum):
    ACCEPT = "accept"
    REVIEW = "review"
    REJECT = "reject"


class PolicyRef(Wire):
    """The policy that decided."""

    name: str
    version: int
    #: The first digits of the SHA-256 of the policy's content. Two files that decide alike have the same.
    digest: str | None = None

    @property
    def label(self) -> str:
        """`NAME@DIGEST`, or the version where there is no digest."""
        return f"{self.name}@{self.digest or self.version}"


class ShadowDecision(Wire):
    """What a policy in shadow would have decided."""

    policy: PolicyRef
    decision: Decision
    reasons: tuple[str, ...]


class Redecided(Wire):
    """What held before a verdict was decided anew from its scores."""

    decision: Decision
    policy: PolicyRef | None
    #: When it was decided anew.
    at: AwareDatetime
