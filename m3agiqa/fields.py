"""Types of the contract's fields: what a stranger may write into each, and one line that says what is wrong.

A check looks at the value alone; it asks no server and resolves no name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
)

from m3agiqa.quoting import quoted

#: Characters of a URL, its query included; pre-signed URLs have about 2,000.
MAX_URL_CHARS = 4_096
#: Bytes of a request's metadata as compact JSON.
MAX_METADATA_BYTES = 16_384
#: Levels of objects and lists in a request's metadata, the metadata itself counted. Every JSON reader has another
#: limit, and beyond it a verdict could be written but not read.
MAX_METADATA_DEPTH = 32
#: Years, in UTC, that a time in a request may lie in. Other years are mistakes, and Python's dates end at 1 and 9999.
YEARS = range(2000, 3000)

#: Finds what a server or a proxy may resolve in an S3 key: `../other/key` would lie in another bucket.
KEY_LEADS_ELSEWHERE = re.compile(r"(\A|/)\.\.?(/|\Z)|[\x00-\x1f\x7f-\x9f\\]")
#: The name of a bucket, or the ARN of an access point.
_BUCKET = re.compile(r"[A-Za-z0-9._:-]{1,255}")
#: What stands for an image whose bytes lie in Redis beside the request: their SHA-256, in lower case.
INLINE_SCHEME = "inline:"
INLINE = re.compile(INLINE_SCHEME + "([0-9a-f]{64})")
_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
#: What a policy's name looks like.
POLICY = r"^[a-z0-9][a-z0-9_-]{0,63}$"
_TENANT = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")

#: Wrong fields that a message names; it counts the others.
_NAMED_ERRORS = 8
#: Characters in a message of a wrong field's name, and of what is wrong with it.
_FIELD_CHARS, _ERROR_CHARS = 160, 240


class Wire(BaseModel):
    """What crosses the wire. Fields that a later version added are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


def is_request_id(value: object) -> bool:
    return isinstance(value, str) and _REQUEST_ID.fullmatch(value) is not None


def is_tenant(value: object) -> bool:
    return isinstance(value, str) and _TENANT.fullmatch(value) is not None


def name_of(tenant: str | None, request_id: str) -> str:
    """The name by which the queue knows a request: its id, of which each tenant has its own, as `TENANT/ID`."""
    return request_id if tenant is None else f"{tenant}/{request_id}"


def tenant_of(name: str) -> str | None:
    """The tenant in what `name_of` gave."""
    return name.partition("/")[0] if "/" in name else None


def is_name(value: object) -> bool:
    """Whether `name_of` may have given this."""
    if not isinstance(value, str):
        return False
    tenant, slash, request_id = value.rpartition("/")
    return is_request_id(request_id) and (not slash or is_tenant(tenant))


def describe_validation(error: ValidationError) -> str:
    """One line that names the first eight wrong fields and what is wrong with each, without their values."""
    found = error.errors(include_url=False, include_input=False, include_context=False)
    named = [
        f"{quoted('.'.join(map(quoted, item['loc'])) or 'value', _FIELD_CHARS)}: {quoted(item['msg'], _ERROR_CHARS)}"
        for item in found[:_NAMED_ERRORS]
    ]
    return "; ".join(named) + (f"; and {len(found) - _NAMED_ERRORS} more" if len(found) > _NAMED_ERRORS else "")


def _check_schemes(*schemes: str) -> Callable[[str], str]:
    def check(url: str) -> str:
        if re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\\]", url):
            raise ValueError("must not hold control characters, line breaks or backslashes")
        try:
            parts = urlsplit(url)
        except ValueError:
            # Python's own message quotes the host, and a password in front of it.
            raise ValueError("is malformed") from None
        # S3 takes a key as it is written; everywhere else a space is written %20.
        if re.search(r"\s", parts.netloc if parts.scheme == "s3" else url):
            raise ValueError("must not hold spaces; only the key of s3://bucket/key may")
        if not url.lower().startswith(tuple(f"{scheme}://" for scheme in schemes)) or not parts.netloc:
            raise ValueError(f"must start with {' or '.join(scheme + '://' for scheme in schemes)} and name a host")
        _check_bucket(url) if parts.scheme == "s3" else _check_host(parts)
        return url

    return check


def _check_image(url: str) -> str:
    if url.startswith(INLINE_SCHEME):
        if not INLINE.fullmatch(url):
            raise ValueError("must be inline: and the SHA-256 of the bytes, 64 hexadecimal digits in lower case")
        return url
    return _check_schemes("https", "http", "s3")(url)


def _check_host(parts: SplitResult) -> None:
    if "@" in parts.netloc:
        raise ValueError("must not hold a user name or a password")
    if not parts.hostname:
        raise ValueError("must name a host")
    try:
        port_exists = parts.port != 0
    except ValueError:
        port_exists = False
    if not port_exists:
        raise ValueError("must name a port from 1 to 65535, or none")


def _check_bucket(url: str) -> None:
    bucket, _, key = url.partition("://")[2].partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise ValueError("must name a bucket, of letters, digits, dots, hyphens and underscores")
    if KEY_LEADS_ELSEWHERE.search(key):
        raise ValueError("must not hold '.' or '..' between slashes")


def _check_year(time: datetime) -> datetime:
    try:
        year = time.astimezone(UTC).year
    except OverflowError:
        year = 0
    if year not in YEARS:
        raise ValueError(f"must lie in the years {YEARS[0]} to {YEARS[-1]} (UTC)")
    return time


def _check_request_id(value: str) -> str:
    if not is_request_id(value):
        raise ValueError("must be 1 to 128 letters, digits, '.', '_' or '-', starting with a letter or digit")
    return value


def _check_tenant(value: str) -> str:
    if not is_tenant(value):
        raise ValueError("must be 1 to 63 lower-case letters, digits or '-', starting with a letter or digit")
    return value


def _check_depth(value: object) -> object:
    if _deeper_than(MAX_METADATA_DEPTH, value):
        raise ValueError(f"is nested deeper than {MAX_METADATA_DEPTH} levels")
    return value


def _check_size(value: dict[str, JsonValue]) -> dict[str, JsonValue]:
    try:
        size = len(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode())
    except UnicodeEncodeError:
        raise ValueError("holds half of a surrogate pair, which UTF-8 has no way to write") from None
    if size > MAX_METADATA_BYTES:
        raise ValueError(f"is {size} bytes as JSON, more than {MAX_METADATA_BYTES}")
    return value


def _deeper_than(limit: int, value: object) -> bool:
    """Whether `value` has more than `limit` levels of objects and lists; a recursion would end before the limit."""
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


_Url = Annotated[str, Field(min_length=1, max_length=MAX_URL_CHARS)]
ImageUrl = Annotated[_Url, AfterValidator(_check_image)]
WebUrl = Annotated[_Url, AfterValidator(_check_schemes("https", "http"))]


def _traceparent(given: object) -> str | None:
    """Nobody loses a score to how he is watched, so a malformed header counts as absent."""
    return given if isinstance(given, str) and _TRACEPARENT.fullmatch(given) else None


_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
#: A span as W3C Trace Context writes it.
Traceparent = Annotated[str | None, BeforeValidator(_traceparent)]

S3Uri = Annotated[_Url, AfterValidator(_check_schemes("s3"))]

RequestId = Annotated[str, AfterValidator(_check_request_id)]

Tenant = Annotated[str, AfterValidator(_check_tenant)]

#: Queue priorities, most urgent first.
Priority = Literal[0, 3, 6, 9]

#: A time that a stranger wrote: it has a zone, and arithmetic with it does not overflow.
Instant = Annotated[AwareDatetime, AfterValidator(_check_year)]

#: A caller's own keys, bounded in bytes and in depth.
Metadata = Annotated[dict[str, JsonValue], BeforeValidator(_check_depth), AfterValidator(_check_size)]
