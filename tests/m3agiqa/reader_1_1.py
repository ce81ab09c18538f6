"""How version 1.1 of the contract read a verdict, as its code stood."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue


class Aspect(StrEnum):
    QUALITY = "quality"
    CORRESPONDENCE = "correspondence"
    AUTHENTICITY = "authenticity"


class Rating(StrEnum):
    BAD = "bad"
    POOR = "poor"
    FAIR = "fair"
    GOOD = "good"
    EXCELLENT = "excellent"


class Decision(StrEnum):
    ACCEPT = "accept"
    REVIEW = "review"
    REJECT = "reject"


class _Wire(BaseModel):
    # Fields that a later version added are ignored.
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class AspectScore(_Wire):
    """One aspect's score with its written reason."""

    #: MOS scale, clamped to [0, 5].
    score: float = Field(ge=0, le=5)
    rating: Rating
    #: What the model wrote about the image.
    description: str
    #: Slices the scoring pass saw, the overview not counted; 0 is the overview alone.
    slices: int = Field(ge=0)
    #: Tokens cut from the end of the scoring conversation to fit the head's context.
    cut_tokens: int = Field(ge=0)


class Failure(_Wire):
    """A failure as a value, so that an error of `errors` can travel."""

    code: str
    message: str
    retryable: bool


class PolicyRef(_Wire):
    """The policy that decided."""

    name: str
    version: int
    #: The first digits of the SHA-256 of the policy's content. Two files that decide alike have the same.
    digest: str | None = None


class ModelInfo(_Wire):
    """Where a score came from."""

    profile: str
    base: str
    adapters: dict[Aspect, str]
    heads: dict[Aspect, str]
    #: Part ("base", "adapter.quality", ...) to the commit or content hash it was loaded from.
    revisions: dict[str, str]
    dtype: str
    engine: str
    #: False for random weights, whose scores mean nothing.
    trained: bool


class ImageInfo(_Wire):
    #: SHA-256 of the bytes as fetched.
    sha256: str
    #: Pixels, after the EXIF orientation was applied.
    width: int
    height: int
    format: str
    #: More than 1 in an animation, of which only the first frame is scored.
    frames: int = 1


class Verdict(_Wire):
    """The one thing a caller receives, whether scored or failed."""

    #: Version of this contract that the verdict follows.
    version: str
    request_id: str
    #: "scored" if every aspect asked for has a score.
    status: Literal["scored", "failed"]
    decision: Decision
    reasons: tuple[str, ...]
    #: Scores of the aspects that succeeded; a failed verdict may have some too.
    aspects: dict[Aspect, AspectScore]
    policy: PolicyRef | None
    model: ModelInfo | None
    image: ImageInfo | None
    timings_ms: dict[str, float]
    #: Images in the batch that this one was scored in; None if there was no batch.
    batch: int | None = None
    attempt: int = Field(ge=1)
    submitted_at: AwareDatetime
    scored_at: AwareDatetime
    metadata: dict[str, JsonValue]
    error: Failure | None
