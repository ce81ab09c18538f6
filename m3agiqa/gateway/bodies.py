"""Reads what a client sends, within limits, and makes a request of it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request
from starlette.types import Message, Receive

from m3agiqa.client.images import bytes_of, is_data_url
from m3agiqa.contract import ScoreRequest, describe_validation
from m3agiqa.gateway.problems import Problem, invalid

#: Bytes of a request as JSON: more than the largest that the contract allows, with every character escaped.
JSON_BYTES = 262_144
#: Fields that a body has not: the key says which tenant, HTTP has a header for the span, and the path has a version.
ELSEWHERE = ("tenant", "traceparent", "version")

#: Stands for the URL of an image that is uploaded, while the other fields are checked.
_UPLOADED = "https://uploaded.invalid"
_KEY = re.compile(r"[\x21-\x7e]{1,255}")


def is_upload(request: Request) -> bool:
    return _media_type(request) == "multipart/form-data"


async def read(request: Request, max_image_bytes: int, timeout_s: float) -> ScoreRequest | dict[str, Any]:
    """The request in a body: a ScoreRequest, or with an upload the fields that `Client.submit` takes.

    Raises:
        Problem: 400, 408, 413, 415 or 422.
        RequestInvalid: a `data:` URL is malformed.
        ClientDisconnect: the client has gone.
    """
    if request.headers.get("content-encoding", "identity") != "identity":
        raise invalid("Content-Encoding is not taken", 415)
    most = max_image_bytes + JSON_BYTES if is_upload(request) else JSON_BYTES
    if (length := request.headers.get("content-length", "")).isdecimal() and int(length) > most:
        raise _too_large(most)
    request = Request(request.scope, _within(request.receive, most, timeout_s))
    if is_upload(request):
        async with request.form(max_files=2, max_fields=1, max_part_size=JSON_BYTES) as form:
            image, text = await _parts(form)
    elif _media_type(request) == "application/json":
        image, text = None, await request.body()
    else:
        raise invalid("Content-Type must be application/json or multipart/form-data", 415)
    fields = _fields(text)
    if image is not None and "image_url" in fields:
        raise invalid("image_url: goes without an uploaded image")
    if is_data_url(fields.get("image_url")):
        image = bytes_of(fields.pop("image_url"))
    if (span := request.headers.get("traceparent")) is not None:
        fields["traceparent"] = span
    asked = _checked({**fields, "image_url": _UPLOADED} if image is not None else fields)
    asked = _under_key(request, fields, asked)
    return asked if image is None else {**asked.model_dump(exclude={"image_url"}), "image": image}


def _under_key(request: Request, fields: Mapping[str, Any], asked: ScoreRequest) -> ScoreRequest:
    """The request under the id that its Idempotency-Key gives, if there is one."""
    key = request.headers.get("idempotency-key")
    if key is None:
        return asked
    if not _KEY.fullmatch(key):
        raise invalid("Idempotency-Key must be 1 to 255 visible characters of ASCII")
    if "request_id" in fields:
        raise invalid("request_id: goes without Idempotency-Key, which gives it")
    return asked.model_copy(update={"request_id": f"key-{hashlib.sha256(key.encode()).hexdigest()[:48]}"})


def _within(receive: Receive, most: int, timeout_s: float) -> Receive:
    """`receive`, which raises a Problem once more than `most` bytes came, or `timeout_s` seconds are over."""
    until = asyncio.get_running_loop().time() + timeout_s
    left = most

    async def bounded() -> Message:
        nonlocal left
        try:
            async with asyncio.timeout_at(until):
                message = await receive()
        except TimeoutError:
            raise invalid(f"the body did not come within {timeout_s:g} s", 408) from None
        left -= len(message.get("body", b""))
        if left < 0:
            raise _too_large(most)
        return message

    return bounded


async def _parts(form: FormData) -> tuple[bytes, bytes]:
    """The image of a form, and the request as JSON."""
    if sorted(name for name, _ in form.multi_items()) != ["image", "request"]:
        raise invalid("a form has two parts: image, a file, and request, the other fields as JSON")
    image, request = form["image"], form["request"]
    if not isinstance(image, UploadFile):
        raise invalid("image: must be a file")
    if isinstance(request, UploadFile):
        if (request.size or 0) > JSON_BYTES:
            raise _too_large(JSON_BYTES)
        text = await request.read()
    else:
        text = request.encode("utf-8", "surrogatepass")
    data = await image.read()
    if not data:
        raise invalid("image: is empty")
    return data, text


def _fields(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text.decode(), parse_constant=_no_number, parse_float=_finite, object_pairs_hook=_each_once)
    except _Repeated:
        raise invalid("a name stands twice in an object", 400) from None
    except (ValueError, RecursionError):
        raise invalid("not JSON in UTF-8", 400) from None
    if not isinstance(found, dict):
        raise invalid('must be a JSON object such as {"image_url": "https://...", "prompt": "..."}')
    for name in ELSEWHERE:
        if name in found:
            raise invalid(f"{name}: is no field of a body")
    return found


def _checked(fields: Mapping[str, Any]) -> ScoreRequest:
    """As strict as the schema: no number is a date, and no word a truth value."""
    try:
        return ScoreRequest.model_validate_json(json.dumps(fields), strict=True)
    except ValidationError as error:
        raise invalid(describe_validation(error)) from None


class _Repeated(ValueError):
    pass


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) < len(pairs):
        raise _Repeated
    return found


def _no_number(text: str) -> NoReturn:
    raise ValueError


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError
    return number


def _too_large(most: int) -> Problem:
    return invalid(f"the body has more than {most} bytes", 413)


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()
