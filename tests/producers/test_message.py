from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from hypothesis import given
from hypothesis import strategies as st
from kombu import Connection
from kombu.entity import Queue
from redis import Redis

from m3agiqa.contract import ScoreRequest
from m3agiqa.errors import RequestInvalid
from producers import keys, message
from worker.app import configuration
from worker.settings import Settings

PAYLOAD = {"image_url": "https://host/secret.png", "prompt": "a secret wish"}


@pytest.fixture
def celery(redis_url: str) -> Iterator[Celery]:
    """Celery as a worker has it, on the test's Redis."""
    app = Celery("test", set_as_current=False)
    app.conf.update(configuration(Settings(redis_url=redis_url)))
    yield app
    app.close()


def consume(celery: Celery, count: int) -> list[Any]:
    """What kombu's own consumer takes from the queue, in its order."""
    taken: list[Any] = []
    with celery.connection_for_read() as connection:
        queue = Queue(keys.SCORE_QUEUE)
        with connection.Consumer(queue, callbacks=[lambda body, got: taken.append((body, got))], accept=["json"]):
            while len(taken) < count:
                connection.drain_events(timeout=30)
                taken[-1][1].ack()
    return taken


def test_kombu_takes_the_most_urgent_first_and_the_oldest_of_each(celery: Celery, redis: Redis) -> None:
    # given two messages of each priority, the least urgent ones pushed first
    for turn in ("first", "second"):
        for priority in reversed(message.PRIORITY_STEPS):
            raw = message.envelope(keys.SCORE_QUEUE, PAYLOAD, task_id=f"{priority} {turn}", priority=priority)
            redis.lpush(message.list_key(keys.SCORE_QUEUE, priority), raw)
    # when kombu takes them
    taken = consume(celery, 8)
    # then urgency comes before age
    assert [got.headers["id"] for _, got in taken] == [
        f"{priority} {turn}" for priority in message.PRIORITY_STEPS for turn in ("first", "second")
    ]
    args, kwargs, _ = taken[0][0]
    assert (args, kwargs) == ([PAYLOAD], {})
    assert redis.hlen("unacked") == 0


@pytest.mark.parametrize("priority", message.PRIORITY_STEPS)
def test_a_message_that_is_given_back_returns_to_its_list(priority: int, celery: Celery, redis: Redis) -> None:
    key = message.list_key(keys.SCORE_QUEUE, priority)
    redis.lpush(key, message.envelope(keys.SCORE_QUEUE, PAYLOAD, task_id="x", priority=priority))
    with celery.connection_for_read() as connection:
        got = connection.default_channel.basic_get(keys.SCORE_QUEUE)
        assert redis.llen(key) == 0
        got.requeue()
    assert redis.llen(key) == 1
    message.parse(redis.rpop(key), keys.SCORE_QUEUE)


def test_it_is_what_celery_would_have_sent(celery: Celery, redis: Redis) -> None:
    # given Celery's own message for the same task
    celery.send_task(keys.SCORE_TASK, args=[PAYLOAD], queue=keys.SCORE_QUEUE, task_id="x", priority=3)
    theirs = json.loads(redis.rpop("score:3"))
    # then ours has the same parts, and the same content but for what must differ
    ours = json.loads(message.envelope(keys.SCORE_QUEUE, PAYLOAD, task_id="x", priority=3))
    assert ours.keys() == theirs.keys()
    assert json.loads(base64.b64decode(ours["body"])) == json.loads(base64.b64decode(theirs["body"]))
    for part in ("headers", "properties"):
        differing = {name for name in ours[part] | theirs[part] if ours[part].get(name) != theirs[part].get(name)}
        assert differing <= {"argsrepr", "kwargsrepr", "origin", "ignore_result", "delivery_tag", "reply_to"}
        assert ours[part].keys() == theirs[part].keys()


def test_it_shows_monitors_neither_prompt_nor_url() -> None:
    made = json.loads(message.envelope(keys.SCORE_QUEUE, PAYLOAD, task_id="x"))
    assert "secret" not in json.dumps({**made, "body": ""})
    assert "secret" in base64.b64decode(made["body"]).decode()


def test_every_message_has_a_delivery_tag_of_its_own() -> None:
    made = [json.loads(message.envelope(keys.SCORE_QUEUE, PAYLOAD, task_id="x")) for _ in range(10)]
    assert len({one["properties"]["delivery_tag"] for one in made}) == 10


def test_list_keys() -> None:
    assert [message.list_key("score", step) for step in message.PRIORITY_STEPS] == [
        "score",
        "score:3",
        "score:6",
        "score:9",
    ]
    with pytest.raises(ValueError, match="priority 4"):
        message.list_key("score", 4)


@given(prompt=st.text(st.characters(exclude_categories=["Cs"]), max_size=200), retries=st.integers(0, 9))
def test_parse_gives_back_what_went_in(prompt: str, retries: int) -> None:
    request = ScoreRequest(image_url="https://host/a.png", prompt=prompt)
    parsed = message.parse(message.score_message(request, retries=retries), keys.SCORE_QUEUE)
    assert ScoreRequest.parse(parsed.payload) == request
    assert parsed.task_id == request.request_id


def _change(path: str, value: object) -> str:
    """A good message with one part changed, or left out if `value` is ..."""
    made = json.loads(message.envelope(keys.SCORE_QUEUE, PAYLOAD, task_id="x"))
    *folders, name = path.split(".")
    part = made
    for folder in folders:
        part = part[folder]
    if value is ...:
        del part[name]
    else:
        part[name] = value
    return json.dumps(made)


def _body(value: object) -> str:
    return base64.b64encode(json.dumps(value).encode()).decode()


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("headers", ..., "headers"),
        ("headers.task", "m3agiqa.deliver", "headers.task"),
        ("headers.id", ..., "headers.id"),
        ("headers.retries", "1", "headers.retries"),
        ("headers.retries", -1, "headers.retries"),
        ("headers.eta", "2030-01-01T00:00:00", "eta"),
        ("properties", None, "properties"),
        ("properties.delivery_tag", ..., "delivery_tag"),
        ("properties.delivery_info", ..., "delivery_info"),
        ("properties.delivery_info.routing_key", "celery", "routing_key"),
        ("properties.priority", 4, "priority"),
        ("properties.body_encoding", ..., "body_encoding"),
        ("content-type", "application/x-python-serialize", "content-type"),
        ("content-encoding", "binary", "content-encoding"),
        ("body", "&&&", "base64"),
        ("body", base64.b64encode(b"\xff").decode(), "body is not JSON"),
        ("body", _body([[], {}, {}]), "one request"),
        ("body", _body([["text"], {}, {}]), "JSON object"),
        ("body", _body([[PAYLOAD], {"extra": 1}, {}]), "body must be"),
        ("body", _body([[PAYLOAD], {}, {"chord": {"task": "evil"}}]), "callbacks"),
    ],
)
def test_parse_says_what_is_wrong_and_shows_nothing(path: str, value: object, said: str) -> None:
    with pytest.raises(RequestInvalid, match=said) as caught:
        message.parse(_change(path, value), keys.SCORE_QUEUE)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("raw", [b"", b"\xff", b"null", b"[" * 100_000, '"text"'])
def test_parse_refuses_what_is_no_message(raw: bytes | str) -> None:
    with pytest.raises(RequestInvalid):
        message.parse(raw, keys.SCORE_QUEUE)


def test_redis_urls_reach_kombu(redis_url: str) -> None:
    """The worker's own transport takes the same URL as the producer's client."""
    with Connection(redis_url, transport="worker.broker:Transport") as connection:
        connection.connect()
        assert connection.connected
