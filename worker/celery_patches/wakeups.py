"""The message that Celery sees for a name on a list.

Celery 5.6 and kombu 5.7 believe headers that anybody can write: `timelimit` or `stamped_headers` of another type end a
worker, `shadow` of another type is never acknowledged, `compression` makes a message vanish with its body in the log.
So nothing of a message is believed but a task's name, and the rest is written here.
"""

from __future__ import annotations

import base64
import json
import re
import uuid

from m3agiqa.queue import keys

#: Form of the name of a request, or of one of its deliveries, by queue.
_NAME = {
    keys.SCORE_QUEUE: re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"),
    keys.DELIVER_QUEUE: re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}:(callback|s3)"),
}
_TASKS = {keys.SCORE_QUEUE: keys.SCORE_TASK, keys.DELIVER_QUEUE: keys.DELIVER_TASK}
#: Bytes of a message that are looked at: kombu's own, which it puts back, are shorter.
_MOST_BYTES = 4_096


def name_in(raw: bytes, queue: str) -> str | None:
    """The name that a message on `queue` carries: it is the name, or one of `message`, which kombu puts back whole when
    a worker stops. None if there is none.
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
    return name if _NAME[queue].fullmatch(name) else None


def message(queue: str, priority: int, name: str) -> str:
    """A message of Celery's protocol 2 that asks for a task by name, as kombu takes it from a Redis list."""
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
                # A worker counts on its being unique.
                "delivery_tag": str(uuid.uuid4()),
            },
        }
    )
