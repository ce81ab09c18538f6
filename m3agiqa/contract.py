"""What crosses the wire: a `ScoreRequest` goes in, a `Verdict` comes out.

Everything here is frozen; a change is a copy. Nothing here needs torch. `fields` has the types of fields, with their
checks.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from datetime import UTC, datetime
from enum import StrEnum
from typing import Literal, Self

from pydantic import AwareDatetime, ConfigDict, Field, JsonValue, ValidationError, field_validator

from m3agiqa import versions
from m3agiqa.decisions import Decision, PolicyRef, Redecided, ShadowDecision
from m3agiqa.errors import RequestInvalid
from m3agiqa.failure import Failure
from m3agiqa.fields import (
    INLINE,
    KEY_LEADS_ELSEWHERE,
    MAX_METADATA_BYTES,
    MAX_METADATA_DEPTH,
    MAX_URL_CHARS,
    POLICY,
    YEARS,
    ImageUrl,
    Instant,
    Metadata,
    Priority,
    RequestId,
    S3Uri,
    Tenant,
    Traceparent,
    WebUrl,
    Wire,
    describe_validation,
    is_request_id,
    name_of,
)
from m3agiqa.versions import VERSION

__all__ = [
    "KEY_LEADS_ELSEWHERE",
    "MAX_METADATA_BYTES",
    "MAX_METADATA_DEPTH",
    "MAX_PIXELS",
    "MAX_PROMPT_CHARS",
    "MAX_URL_CHARS",
    "VERSION",
    "YEARS",
    "Asked",
    "Aspect",
    "AspectScore",
    "Decision",
    "Failure",
    "ImageInfo",
    "Instant",
    "ModelInfo",
    "PolicyRef",
    "Priority",
    "Rating",
    "Redecided",
    "ScoreRequest",
    "ShadowDecision",
    "Verdict",
    "describe_validation",
    "is_request_id",
]

#: Characters of a prompt. No generator takes a longer one, and the model's context bounds it more tightly.
MAX_PROMPT_CHARS = 8_000
#: Pixels of an image: a little over 8192 x 8192, above what generators put out, and 270 MB once decoded.
MAX_PIXELS = 68_000_000

#: Events that a verdict may tell.
SCORED, REDECIDED = "verdict.scored", "verdict.redecided"

#: Fields in which a request may differ from its repetition, and the tenant, which is part of its name.
_OF_A_TIME = {"submitted_at", "expires_at", "priority", "version", "traceparent", "batch_id", "retry_failed", "tenant"}
#: Fields of requests that version 1.0 lacks, and the first version that has them. Not `tenant`: a reader that passed
#: over it would take the request for another one, so it is to refuse it.
_SINCE = {"traceparent": "1.1", "batch_id": "1.2", "retry_failed": "1.2"}
_INLINE_SINCE = "1.2"


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

    @classmethod
    def from_score(cls, score: float) -> Self:
        """The word for a score in [0, 5]: below 1 bad, 2 poor, 3 fair, 4 good, else excellent."""
        return list(cls)[min(int(score), 4)]


class ScoreRequest(Wire):
    """One image to score, as a generator backend enqueues it."""

    # An unknown field is a misspelt one; `parse` takes out those that a later version added.
    model_config = ConfigDict(extra="forbid")

    #: Web address, or `s3://bucket/key`. A key is taken literally: a space is a space, and %20 is none. Since version
    #: 1.2 also `inline:SHA256`, where the client put the bytes into Redis beside the request.
    image_url: ImageUrl
    prompt: str = Field(max_length=MAX_PROMPT_CHARS)
    #: Receives the signed verdict by POST.
    callback_url: WebUrl | None = None
    #: Bucket with an optional prefix, `s3://bucket/prefix`, taken literally. The verdict is written below it.
    s3_uri: S3Uri | None = None
    #: None asks for every aspect of the worker's profile.
    aspects: tuple[Aspect, ...] | None = None
    #: Name of a policy; None takes the worker's default.
    policy: str | None = Field(default=None, pattern=POLICY)
    priority: Priority = 3
    request_id: RequestId = Field(default_factory=lambda: uuid.uuid4().hex)
    #: The caller's own keys, at most 16 KiB as JSON and 32 levels deep. The verdict returns them untouched.
    metadata: Metadata = Field(default_factory=dict)
    submitted_at: Instant = Field(default_factory=lambda: datetime.now(UTC))
    #: When the caller stops waiting. A request that is unscored by then gets a verdict `failed` with code `expired`.
    expires_at: Instant | None = None
    #: The caller's span, as W3C Trace Context writes it; workers go on with its trace. Since version 1.1.
    #: Anything else counts as absent.
    traceparent: Traceparent = None
    #: The caller's label of requests that belong together, of the form of a request id. The verdict returns it. Since
    #: version 1.2.
    batch_id: RequestId | None = None
    #: Whether to try a request anew that is settled with a failure; without effect on any other. Since version 1.2.
    retry_failed: bool | None = None
    #: The customer it is for. Ids are unique within a tenant, as they are among all requests without one. Since 1.3.
    tenant: Tenant | None = None
    #: Version of the contract that the request follows; None means the reader's own.
    version: str | None = Field(default=None, pattern=versions.FORM)

    @property
    def name(self) -> str:
        """The name by which the queue knows it."""
        return name_of(self.tenant, self.request_id)

    @property
    def deliveries(self) -> tuple[str, ...]:
        """Where the verdict goes: "callback", "s3"."""
        targets = {"callback": self.callback_url, "s3": self.s3_uri}
        return tuple(kind for kind, target in targets.items() if target is not None)

    @property
    def fingerprint(self) -> str:
        """32 hexadecimal digits of what is asked for, equal for a request and its repetition at any later time."""
        asked = self.model_dump(mode="json", exclude=_OF_A_TIME)
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:32]

    def to_json(self) -> str:
        """As JSON. With what version 1.0 lacks, it names a later version. Older readers then ignore fields that they
        lack, and refuse nothing but an image of scheme `inline`.
        """
        needed = max((since for name, since in _SINCE.items() if getattr(self, name) is not None), default="1.0")
        if INLINE.fullmatch(self.image_url):
            needed = max(needed, _INLINE_SINCE)
        is_later = self.version in (None, "1.0", "1.1") and needed > (self.version or "1.0")
        said = self.model_copy(update={"version": needed}) if is_later else self
        return said.model_dump_json(exclude_none=True)

    @field_validator("aspects")
    @classmethod
    def _each_once(cls, value: tuple[Aspect, ...] | None) -> tuple[Aspect, ...] | None:
        if value is not None and not value:
            raise ValueError("must name at least one aspect, or be left out for all")
        return None if value is None else tuple(dict.fromkeys(value))

    @classmethod
    def parse(cls, payload: object) -> Self:
        """Validate `payload` (a dict of JSON values).

        Raises:
            RequestInvalid: naming each wrong field, without the values, which may be private.
            NewerVersion: it follows a later major version.
        """
        try:
            return cls.model_validate(versions.without_later_fields(payload, cls.model_fields))
        except ValidationError as error:
            raise RequestInvalid(describe_validation(error)) from None


class AspectScore(Wire):
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


class ModelInfo(Wire):
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


class ImageInfo(Wire):
    #: SHA-256 of the bytes as fetched.
    sha256: str
    #: Pixels, after the EXIF orientation was applied.
    width: int
    height: int
    format: str
    #: More than 1 in an animation, of which only the first frame is scored.
    frames: int = 1


class Asked(Wire):
    """The part of a request that its verdict repeats where the worker is set to."""

    image_url: str
    prompt: str
    callback_url: str | None = None
    s3_uri: str | None = None


class Verdict(Wire):
    """The one thing a caller receives, whether scored or failed."""

    #: Version of this contract that the verdict follows.
    version: str = VERSION
    #: The event that a webhook tells: SCORED, or REDECIDED for a verdict of an image that was scored before. Since 1.2.
    type: str = SCORED
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
    #: Aspects that were asked for and alone have no score, with the reason for each. Since 1.2, as all below.
    failures: dict[Aspect, Failure] = Field(default_factory=dict)
    #: Scores under a neutral prompt, where the policy asked for them before it accepted.
    neutral: dict[Aspect, float] = Field(default_factory=dict)
    request: Asked | None = None
    #: What the policy in shadow would have decided.
    shadow: ShadowDecision | None = None
    #: What held before, where the verdict was decided anew from its scores.
    redecided: Redecided | None = None
    #: The request's own.
    batch_id: str | None = None
    #: The request's own. Since 1.3.
    tenant: str | None = None

    @property
    def name(self) -> str:
        """The name by which the queue knows its request."""
        return name_of(self.tenant, self.request_id)
