"""Which messages carry a name, and what Celery sees of those."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from m3agiqa.queue import keys
from worker.celery_patches import wakeups

SCORE, DELIVER = keys.SCORE_QUEUE, keys.DELIVER_QUEUE


def envelope(task_id: Any, **fields: Any) -> bytes:
    return json.dumps({"headers": {"id": task_id}, **fields}).encode()


@pytest.mark.parametrize(
    ("raw", "queue"),
    [
        (b"r", SCORE),
        (b"0", SCORE),
        (b"a.b_c-D9", SCORE),
        (b"x" * 128, SCORE),
        (b"r:callback", DELIVER),
        (b"x" * 128 + b":s3", DELIVER),
    ],
)
def test_a_name_is_itself(raw: bytes, queue: str) -> None:
    assert wakeups.name_in(raw, queue) == raw.decode()


@pytest.mark.parametrize(("queue", "name"), [(SCORE, "r"), (DELIVER, "r:s3")])
def test_what_kombu_puts_back_carries_its_name(queue: str, name: str) -> None:
    # given a message as a worker gets it, and as kombu gives it back when the worker stops
    seen = json.loads(wakeups.message(queue, 3, name))
    seen["headers"]["redelivered"] = True
    seen["properties"]["delivery_info"]["redelivered"] = True
    # then its name is found again
    assert wakeups.name_in(json.dumps(seen).encode(), queue) == name


def test_of_an_envelope_nothing_but_its_name_is_believed() -> None:
    # given a message in which everything else is a stranger's
    forged = envelope("r", body="cm0gLXJm", properties={"priority": 1}, **{"content-type": "application/x-python"})
    # when Celery is to see it
    name = wakeups.name_in(forged, SCORE)
    assert name is not None
    seen = json.loads(wakeups.message(SCORE, 6, name))
    # then it is the same as for the bare name, but for its tag
    plain = json.loads(wakeups.message(SCORE, 6, "r"))
    assert seen["properties"].pop("delivery_tag") != plain["properties"].pop("delivery_tag")
    assert seen == plain


@pytest.mark.parametrize(
    ("queue", "task", "name"), [(SCORE, "m3agiqa.score", "r"), (DELIVER, "m3agiqa.deliver", "r:callback")]
)
def test_celery_sees_a_task_whose_one_argument_is_its_name(queue: str, task: str, name: str) -> None:
    seen = json.loads(wakeups.message(queue, 9, name))
    args, kwargs, _ = json.loads(base64.b64decode(seen["body"]))
    assert (args, kwargs) == ([name], {})
    assert (seen["headers"]["task"], seen["headers"]["id"], seen["headers"]["root_id"]) == (task, name, "r")
    assert seen["properties"]["delivery_info"]["routing_key"] == queue
    assert seen["properties"]["priority"] == 9


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b" r",
        b"r\n",
        b"-r",
        b"r:callback",
        b"r s",
        b"r\x00",
        b"\xff\xfe",
        "ü".encode(),
        b"x" * 129,
        b"x" * 100_000,
        b"m3agiqa:request:r",
        b"{",
        b"{}",
        b"[]",
        b'"r"',
        b'{"headers": []}',
        b'{"headers": "id"}',
        b'{"headers": null}',
        b'{"headers": {}}',
        b'{"id": "r"}',
        b'{"headers": {"id": "r\\u000a"}}',
        b'{"headers": {"id": "\\ud800"}}',
        b'{"headers":' * 340,
        envelope(None),
        envelope(7),
        envelope(True),
        envelope(["r"]),
        envelope({"r": 1}),
        envelope(""),
        envelope("r:callback"),
        envelope("x" * 129),
        envelope("a\nforged line of the log"),
        envelope("r", body="x" * 4_096),
        b" " + envelope("r"),
    ],
)
def test_what_carries_no_name_of_a_request(raw: bytes) -> None:
    assert wakeups.name_in(raw, SCORE) is None


@pytest.mark.parametrize(
    "raw", [b"r", b"r:", b"r:score", b"r:callback:s3", b"r:CALLBACK", b":callback", b"r:callback\n", envelope("r")]
)
def test_what_carries_no_name_of_a_delivery(raw: bytes) -> None:
    assert wakeups.name_in(raw, DELIVER) is None


def test_what_is_too_long_is_not_looked_at() -> None:
    short = envelope("r", body="")
    longest = envelope("r", body="x" * (4_096 - len(short)))
    assert wakeups.name_in(longest, SCORE) == "r"
    assert wakeups.name_in(longest + b" ", SCORE) is None
