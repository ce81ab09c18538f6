"""What crosses the wire: a `ScoreRequest` goes in, a `Verdict` comes out.

Everything here is frozen; a change is a copy. Nothing here needs torch.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Literal, Self
from urllib.parse import SplitResult, urlsplit

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    field_validator,
)

from m3agiqa.errors import InternalError, M3AGIQAError, NewerVersion, OutOfMemory, RequestInvalid
from m3agiqa.quoting import quoted

#: Characters. Longer than any generator accepts; the model's context is the tighter bound.
MAX_PROMPT_CHARS = 8_000
#: Characters, all of the URL with its query (pre-signed URLs run to about 2,000).
MAX_URL_CHARS = 4_096
#: Pixels of an image. 8192 x 8192 and a little: above what generators put out, 270 MB once decoded.
MAX_PIXELS = 68_000_000
#: Bytes of the caller's metadata as compact JSON; it comes back in the verdict untouched.
MAX_METADATA_BYTES = 16_384
#: Objects and lists inside one another, the metadata itself counted. JSON's readers have limits of their own, each
#: another one, beyond which a verdict could be written and not be read.
MAX_METADATA_DEPTH = 32
#: Years, in UTC, that a request may name. Others are mistakes, and arithmetic with times ends at the years 1 and 9999.
YEARS = range(2000, 3000)

#: Version of what is written here. A reader of the same major version ignores the fields that a later minor one added;
#: another major version is for other readers.
VERSION = "1.0"

#: Queue priorities, most urgent first.
Priority = Literal[0, 3, 6, 9]

#: A key is a part of a path, which servers and proxies may resolve: `../other/key` is in another bucket then.
KEY_LEADS_ELSEWHERE = re.compile(r"(\A|/)\.\.?(/|\Z)|[\x00-\x1f\x7f-\x9f\\]")
#: A bucket, or the ARN of an access point.
_BUCKET = re.compile(r"[A-Za-z0-9._:-]{1,255}")

_VERSION_FORM = r"^[0-9]{1,4}\.[0-9]{1,4}$"
_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")

#: Errors of an invalid request that are told, and characters of where one is and of what is wrong.
_TOLD = 8
_WHERE_CHARS, _WHAT_CHARS = 160, 240


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


class Decision(StrEnum):
    ACCEPT = "accept"
    REVIEW = "review"
    REJECT = "reject"


class _Wire(BaseModel):
    # Fields that a later version added are ignored.
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


def _url_with_scheme(*schemes: str) -> AfterValidator:
    def check(url: str) -> str:
        if re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\\]", url):
            raise ValueError("must not hold control characters, line breaks or backslashes")
        try:
            parts = urlsplit(url)
        except ValueError:
            # Python's words for it quote the host, and what stands in front of it.
            raise ValueError("is malformed") from None
        # A bucket's key is whatever follows its name; any other space is written %20.
        if re.search(r"\s", parts.netloc if parts.scheme == "s3" else url):
            raise ValueError("must not hold spaces; only the key of s3://bucket/key may")
        if not url.lower().startswith(tuple(f"{scheme}://" for scheme in schemes)) or not parts.netloc:
            raise ValueError(f"must start with {' or '.join(scheme + '://' for scheme in schemes)} and name a host")
        _check_bucket(url) if parts.scheme == "s3" else _check_host(parts)
        return url

    return AfterValidator(check)


def _check_host(parts: SplitResult) -> None:
    if "@" in parts.netloc:
        raise ValueError("must not hold a user name or a password")
    if not parts.hostname:
        raise ValueError("must name a host")
    try:
        known = parts.port != 0
    except ValueError:
        known = False
    if not known:
        raise ValueError("must name a port from 1 to 65535, or none")


def _check_bucket(url: str) -> None:
    bucket, _, key = url.partition("://")[2].partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise ValueError("must name a bucket, of letters, digits, dots, hyphens and underscores")
    if KEY_LEADS_ELSEWHERE.search(key):
        raise ValueError("must not hold '.' or '..' between slashes")


def _in_our_age(time: datetime) -> datetime:
    try:
        year = time.astimezone(UTC).year
    except OverflowError:
        year = 0
    if year not in YEARS:
        raise ValueError(f"must lie in the years {YEARS[0]} to {YEARS[-1]} (UTC)")
    return time


#: A time that a stranger gave: it has a zone, and can be computed with.
Instant = Annotated[AwareDatetime, AfterValidator(_in_our_age)]

_Url = Annotated[str, Field(min_length=1, max_length=MAX_URL_CHARS)]


class ScoreRequest(_Wire):
    """One image to score, as a generator backend enqueues it."""

    # A field that is not known is a misspelt one, unless a later version may have it.
    model_config = ConfigDict(extra="forbid")

    #: Web address, or `s3://bucket/key`, whose key is taken literally: a space is a space, and %20 is no space.
    image_url: Annotated[_Url, _url_with_scheme("https", "http", "s3")]
    prompt: str = Field(max_length=MAX_PROMPT_CHARS)
    #: Receives the signed verdict by POST.
    callback_url: Annotated[_Url, _url_with_scheme("https", "http")] | None = None
    #: Bucket with an optional prefix, `s3://bucket/prefix`, taken literally; the verdict is written below it.
    s3_uri: Annotated[_Url, _url_with_scheme("s3")] | None = None
    #: None asks for every aspect of the worker's profile.
    aspects: tuple[Aspect, ...] | None = None
    #: Name of a policy; None takes the worker's default.
    policy: str | None = Field(default=None, pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")
    priority: Priority = 3
    request_id: str = Field(default_factory=lambda: uuid.uuid4().hex)
    #: The caller's own keys, returned in the verdict untouched: 16 KiB as JSON and 32 levels deep at most.
    metadata: dict[str, JsonValue] = Field(default_factory=dict)
    submitted_at: Instant = Field(default_factory=lambda: datetime.now(UTC))
    #: Time from which on nobody waits for the verdict: what is not scored yet is answered unscored.
    expires_at: Instant | None = None
    #: Version of this contract that the request follows; None is the reader's own.
    version: str | None = Field(default=None, pattern=_VERSION_FORM)

    @property
    def deliveries(self) -> tuple[str, ...]:
        """Where the verdict goes: "callback", "s3"."""
        places = {"callback": self.callback_url, "s3": self.s3_uri}
        return tuple(kind for kind, place in places.items() if place is not None)

    @property
    def fingerprint(self) -> str:
        """What is asked for, in 32 hexadecimal digits: equal for a request and its repetition, at whatever time."""
        asked = self.model_dump(mode="json", exclude={"submitted_at", "expires_at", "priority", "version"})
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:32]

    def to_json(self) -> str:
        return self.model_dump_json(exclude_none=True)

    @field_validator("request_id")
    @classmethod
    def _names_an_object(cls, value: str) -> str:
        if not is_request_id(value):
            raise ValueError("must be 1 to 128 letters, digits, '.', '_' or '-', starting with a letter or digit")
        return value

    @field_validator("aspects")
    @classmethod
    def _each_once(cls, value: tuple[Aspect, ...] | None) -> tuple[Aspect, ...] | None:
        if value is not None and not value:
            raise ValueError("must name at least one aspect, or be left out for all")
        return None if value is None else tuple(dict.fromkeys(value))

    @field_validator("metadata", mode="before")
    @classmethod
    def _shallow(cls, value: object) -> object:
        if _deeper_than(MAX_METADATA_DEPTH, value):
            raise ValueError(f"is nested deeper than {MAX_METADATA_DEPTH} levels")
        return value

    @field_validator("metadata")
    @classmethod
    def _bounded(cls, value: dict[str, JsonValue]) -> dict[str, JsonValue]:
        try:
            size = len(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode())
        except UnicodeEncodeError:
            raise ValueError("holds half of a surrogate pair, which UTF-8 has no way to write") from None
        if size > MAX_METADATA_BYTES:
            raise ValueError(f"is {size} bytes as JSON, more than {MAX_METADATA_BYTES}")
        return value

    @classmethod
    def parse(cls, payload: object) -> Self:
        """Validate `payload` (a dict of JSON values).

        Raises:
            RequestInvalid: naming each wrong field, without the values, which may be private.
            NewerVersion: it is of a later major version.
        """
        try:
            return cls.model_validate(_as_of_now(payload))
        except ValidationError as error:
            raise RequestInvalid(describe_validation(error)) from None


def _as_of_now(payload: object) -> object:
    """`payload` without what a later minor version added."""
    version = payload.get("version") if isinstance(payload, dict) else None
    if not isinstance(version, str) or not re.fullmatch(_VERSION_FORM, version):
        return payload
    theirs, ours = ([int(part) for part in each.split(".")] for each in (version, VERSION))
    if theirs[0] > ours[0]:
        raise NewerVersion(f"follows version {theirs[0]} of the contract, and this worker {ours[0]}")
    if theirs <= ours:
        return payload
    assert isinstance(payload, dict)
    return {name: value for name, value in payload.items() if name in ScoreRequest.model_fields}


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
    """A failure as a value: what `errors` raises, once it must travel."""

    code: str
    message: str
    retryable: bool

    @classmethod
    def from_error(cls, error: BaseException) -> Self:
        """Anything unforeseen becomes an `internal_error` showing only its type: its text may hold secrets.

        The message can be written as JSON, whatever bytes the name of a file has that it holds.
        """
        if isinstance(error, MemoryError):
            error = OutOfMemory("this machine had no room for it; give the worker more memory, or fewer threads")
        if isinstance(error, M3AGIQAError):
            return cls(code=error.code, message=str(error), retryable=error.retryable)
        return cls(
            code=InternalError.code,
            message=f"unexpected {type(error).__name__}",
            retryable=InternalError.retryable,
        )


class PolicyRef(_Wire):
    """The policy that decided."""

    name: str
    version: int
    #: Beginning of the SHA-256 of its content: two files that decide alike have the same.
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
    #: False for random weights: such scores mean nothing.
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
    version: str = VERSION
    request_id: str
    #: "scored" if every wanted aspect has a score.
    status: Literal["scored", "failed"]
    decision: Decision
    reasons: tuple[str, ...]
    #: Scores of the aspects that succeeded, also in a failed verdict.
    aspects: dict[Aspect, AspectScore]
    policy: PolicyRef | None
    model: ModelInfo | None
    image: ImageInfo | None
    timings_ms: dict[str, float]
    #: Images that were scored together with this one, itself counted; None if none was gathered.
    batch: int | None = None
    attempt: int = Field(ge=1)
    submitted_at: AwareDatetime
    scored_at: AwareDatetime
    metadata: dict[str, JsonValue]
    error: Failure | None


def is_request_id(value: object) -> bool:
    return isinstance(value, str) and _REQUEST_ID.fullmatch(value) is not None


def describe_validation(error: ValidationError) -> str:
    """One line naming the wrong fields and why, the first eight of them, without the values."""
    found = error.errors(include_url=False, include_input=False, include_context=False)
    told = [
        f"{quoted('.'.join(map(quoted, item['loc'])) or 'value', _WHERE_CHARS)}: {quoted(item['msg'], _WHAT_CHARS)}"
        for item in found[:_TOLD]
    ]
    return "; ".join(told) + (f"; and {len(found) - _TOLD} more" if len(found) > _TOLD else "")


def _deeper_than(limit: int, value: object) -> bool:
    """Whether objects and lists stand in one another more than `limit` deep; without recursion, which ends sooner."""
    level = [value]
    for _ in range(limit):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False
    return any(isinstance(inner, dict | list) for inner in level)
