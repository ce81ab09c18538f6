"""Reads the task's name from a message on a list, and writes the message that Celery sees instead.

Celery 5.6 and kombu 5.7 believe headers that anybody can write: `timelimit` or `stamped_headers` of a wrong type end a
worker, a message with `shadow` of a wrong type is never acknowledged, one with `compression` vanishes and leaves its
body in the log. So this worker believes the name alone, and writes the rest of the message itself.
"""

from __future__ import annotations

import base64
import json
import uuid

from m3agiqa.fields import is_name
from m3agiqa.queue import keys

#: What follows the name of a request in that of a task, by queue.
_KINDS = {keys.SCORE_QUEUE: ("",), keys.DELIVER_QUEUE: (":callback", ":s3")}
_TASKS = {keys.SCORE_QUEUE: keys.SCORE_TASK, keys.DELIVER_QUEUE: keys.DELIVER_TASK}
#: Bytes of a message at most: those that kombu puts back are shorter.
_MOST_BYTES = 4_096


def name_in(raw: bytes, queue: str) -> str | None:
    """The task's name in a message on `queue`, or None. The message is the name itself, or a text that `message` wrote,
    which kombu puts back when a worker stops.
    """
    if len(raw) > _MOST_BYTES:
        return None
    try:
        text = raw.decode("ascii")
        if not text.startswith("{"):
            name = text
        else:
            told = json.loads(text)
            name = told["headers"]["id"]
            if not isinstance(name, str):
                return None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    kind = next((kind for kind in _KINDS[queue] if name.endswith(kind)), None)
    return name if kind is not None and is_name(name.removesuffix(kind)) else None


def message(queue: str, priority: int, name: str) -> str:
    """A message of Celery's protocol 2 for a task's name, in the form in which kombu takes it from a Redis list."""
    body = [[name], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]
    return json.dumps(
        {
            "body": base64.b64encode(json.dumps(body).encode()).decode(),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": {
                "lang": "py",
                "task": _TASKS[queue],
                "id": name,
                "root_id": name.partition(":")[0],
                "parent_id": None,
                "group": None,
                "retries": 0,
                "eta": None,
                "expires": None,
                "timelimit": [None, None],
                "ignore_result": True,
            },
            "properties": {
                "correlation_id": name,
                "reply_to": "",
                "delivery_mode": 2,
                "delivery_info": {"exchange": "", "routing_key": queue},
                "priority": priority,
                "body_encoding": "base64",
                # kombu needs a tag that is unique.
                "delivery_tag": str(uuid.uuid4()),
            },
        }
    )
