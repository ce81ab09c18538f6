"""The message that a Celery worker takes from a Redis list, built without Celery.

One JSON object: `headers` and `properties` as Celery's task protocol 2 and kombu's Redis transport want them, and
`body`, which is base64 of the JSON `[args, kwargs, embed]`. A queue is one list for each priority; producers push on
the left, workers take from the right.
"""

from __future__ import annotations

import base64
import json
import math
import socket
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from m3agiqa.contract import ScoreRequest
from m3agiqa.errors import RequestInvalid
from producers import keys

#: Most urgent first. The most urgent one's list has the queue's bare name.
PRIORITY_STEPS = (0, 3, 6, 9)
SEPARATOR = ":"

#: Above the largest that the contract allows, every character escaped.
MAX_MESSAGE_BYTES = 1_048_576

#: Characters of ids and tags.
_NAME_CHARS = 200
_NAME_FORM = f"1 to {_NAME_CHARS} printable ASCII characters"

_TASK_OF_QUEUE = {keys.SCORE_QUEUE: keys.SCORE_TASK, keys.DELIVER_QUEUE: keys.DELIVER_TASK}

#: Stands for the arguments wherever monitors show them: prompts and URLs are private.
_REDACTED_ARGS = "(...)"
_REDACTED_KWARGS = "{}"


def list_key(queue: str, priority: int = 0) -> str:
    """The Redis list of `queue` for one of PRIORITY_STEPS."""
    if priority not in PRIORITY_STEPS:
        raise ValueError(f"priority {priority} is none of {PRIORITY_STEPS}")
    return f"{queue}{SEPARATOR}{priority}" if priority else queue


def envelope(
    queue: str,
    payload: Mapping[str, Any],
    *,
    task_id: str,
    priority: int = 0,
    retries: int = 0,
    parent_id: str | None = None,
) -> str:
    """The message that asks for `queue`'s task with `payload` (a dict of JSON values) as its one argument.

    Push it on `list_key(queue, priority)`. Each call makes another message: the worker counts on `delivery_tag` being
    unique.
    """
    body = [[payload], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]
    return _compact(
        {
            "body": base64.b64encode(_compact(body).encode()).decode(),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": {
                "lang": "py",
                "task": _TASK_OF_QUEUE[queue],
                "id": task_id,
                "root_id": parent_id or task_id,
                "parent_id": parent_id,
                "group": None,
                "group_index": None,
                "retries": retries,
                "eta": None,
                "expires": None,
                "timelimit": [None, None],
                "shadow": None,
                "argsrepr": _REDACTED_ARGS,
                "kwargsrepr": _REDACTED_KWARGS,
                "origin": _origin(),
                "ignore_result": True,
                "replaced_task_nesting": 0,
                "stamped_headers": None,
                "stamps": {},
            },
            "properties": {
                "correlation_id": task_id,
                "reply_to": "",
                "delivery_mode": 2,
                "delivery_info": {"exchange": "", "routing_key": queue},
                "priority": priority,
                "body_encoding": "base64",
                "delivery_tag": str(uuid.uuid4()),
            },
        }
    )


def score_message(request: ScoreRequest, *, retries: int = 0) -> str:
    """The message that asks for a picture to be scored; `retries` counts the attempts before it."""
    return envelope(
        keys.SCORE_QUEUE,
        request.model_dump(mode="json"),
        task_id=request.request_id,
        priority=request.priority,
        retries=retries,
    )


@dataclass(frozen=True)
class Message:
    """A message as `parse` found it."""

    task: str
    task_id: str
    payload: dict[str, Any]
    priority: int
    retries: int


def rebuilt(raw: bytes | str, queue: str) -> str:
    """The message that a worker of `queue` may believe: task, id, priority, retries and request of `raw`, and for
    everything else what `envelope` writes. Celery and kombu read many headers, and some of them stop a worker.

    Raises:
        RequestInvalid: as `parse`.
    """
    told = parse(raw, queue)
    parent = told.task_id.partition(":")[0] if queue == keys.DELIVER_QUEUE else None
    return envelope(
        queue, told.payload, task_id=told.task_id, priority=told.priority, retries=told.retries, parent_id=parent
    )


def parse(raw: bytes | str, queue: str) -> Message:
    """Check all that a worker of `queue` relies on, which is more than Celery and kombu check.

    Raises:
        RequestInvalid: what is wrong with the message, without its content.
    """
    if len(raw) > MAX_MESSAGE_BYTES:
        raise RequestInvalid(f"message is {len(raw)} bytes, more than {MAX_MESSAGE_BYTES}")
    message = _as_object(_json(raw, "message"), "message")
    headers = _as_object(message.get("headers"), "headers")
    properties = _as_object(message.get("properties"), "properties")
    info = _as_object(properties.get("delivery_info"), "properties.delivery_info")
    if info.get("exchange") != "" or info.get("routing_key") != queue:
        raise RequestInvalid(f"properties.delivery_info must be an empty exchange and the routing_key {queue!r}")
    if not _is_name(properties.get("delivery_tag")):
        raise RequestInvalid(f"properties.delivery_tag must be a unique string, {_NAME_FORM}")
    if properties.get("priority") not in PRIORITY_STEPS:
        raise RequestInvalid(f"properties.priority must be one of {PRIORITY_STEPS}")
    if headers.get("task") != _TASK_OF_QUEUE[queue]:
        raise RequestInvalid(f"headers.task must be {_TASK_OF_QUEUE[queue]!r} on this queue")
    if not _is_name(headers.get("id")):
        raise RequestInvalid(f"headers.id must be a string, {_NAME_FORM}")
    if type(headers.get("retries", 0)) is not int or headers.get("retries", 0) < 0:
        raise RequestInvalid("headers.retries must be a whole number from 0 on")
    if any(headers.get(name) is not None for name in ("eta", "expires")):
        raise RequestInvalid("headers.eta and headers.expires must be null: a worker would hold or drop the message")
    if message.get("content-type") != "application/json" or message.get("content-encoding") != "utf-8":
        raise RequestInvalid("content-type must be application/json and content-encoding utf-8")
    return Message(
        task=headers["task"],
        task_id=headers["id"],
        payload=_payload(message, properties),
        priority=properties["priority"],
        retries=headers.get("retries", 0),
    )


def _payload(message: dict[str, Any], properties: dict[str, Any]) -> dict[str, Any]:
    if properties.get("body_encoding") != "base64" or not isinstance(message.get("body"), str):
        raise RequestInvalid("body must be base64, and properties.body_encoding say so")
    try:
        body = _json(base64.b64decode(message["body"], validate=True), "body")
    except ValueError:
        raise RequestInvalid("body is not base64") from None
    if not isinstance(body, list) or len(body) != 3 or body[1] != {} or not isinstance(body[2], dict):
        raise RequestInvalid("body must be [[request], {}, {}]")
    if not isinstance(body[0], list) or len(body[0]) != 1:
        raise RequestInvalid("body must hold one request")
    if any(body[2].get(name) for name in ("callbacks", "errbacks", "chain", "chord")):
        raise RequestInvalid("body must name no callbacks")
    return _as_object(body[0][0], "the request")


def _is_name(value: object) -> bool:
    """Whether logs, Redis and Celery can carry `value`."""
    return isinstance(value, str) and 0 < len(value) <= _NAME_CHARS and value.isascii() and value.isprintable()


def _json(raw: bytes | str, what: str) -> object:
    try:
        return json.loads(raw, parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError):
        raise RequestInvalid(f"{what} is not JSON in UTF-8") from None


def _finite(text: str) -> float:
    """Python would take NaN, and 1e999 for infinity, which no JSON can pass on."""
    if not math.isfinite(number := float(text)):
        raise ValueError("not a finite number")
    return number


def _as_object(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RequestInvalid(f"{what} must be a JSON object")
    return value


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


@cache
def _origin() -> str:
    return f"m3agiqa@{socket.gethostname()}"
