"""What real workers do with messages that are wrong, and what they show of any."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery
from redis import Redis

from producers import Client, keys, message
from producers.dead import DeadLetter
from tests.support import Web, Worker, eventually

Start = Callable[..., Worker]


def test_an_invalid_request_that_names_itself_is_answered(
    client: Client, redis: Redis, web: Web, worker_process: Start
) -> None:
    # given requests with a wrong field, an unknown field, and text that no UTF-8 holds
    payloads: dict[str, dict[str, object]] = {
        "wrong": {"image_url": "ftp://host/x.png", "prompt": "p", "metadata": {"k": 1}},
        "unknown": {"image_url": web.url("a.png"), "prompt": "p", "colour": "red"},
        "surrogate": {"image_url": web.url("a.png"), "prompt": "\ud800"},
        "metadata": {"image_url": web.url("a.png"), "prompt": "p", "metadata": {"k": "\ud800"}},
    }
    worker_process("score")
    # when they are pushed by a producer that did not check them
    for name, payload in payloads.items():
        raw = message.envelope(keys.SCORE_QUEUE, {**payload, "request_id": name}, task_id=name)
        redis.lpush(keys.SCORE_QUEUE, raw)
    # then each is answered with a failed verdict
    for name in payloads:
        verdict = client.result(name, timeout=60)
        assert verdict.error is not None
        assert verdict.error.code == "request_invalid"
        assert verdict.metadata == ({"k": 1} if name == "wrong" else {})


def test_what_is_no_message_becomes_a_dead_letter_and_the_worker_goes_on(
    client: Client, redis: Redis, web: Web, worker_process: Start
) -> None:
    # given a queue with garbage in it
    good = json.loads(message.envelope(keys.SCORE_QUEUE, {"image_url": "x"}, task_id="x"))
    tagless = {**good, "properties": {k: v for k, v in good["properties"].items() if k != "delivery_tag"}}
    stranger = {**good, "headers": {**good["headers"], "task": "other.task"}}
    nameless = message.envelope(keys.SCORE_QUEUE, {"prompt": "no request id"}, task_id="x")
    oversized = "{" + " " * message.MAX_MESSAGE_BYTES + "}"
    garbage = [b"not json", b"\xff\xfe", "[]", json.dumps(tagless), json.dumps(stranger), nameless, oversized]
    worker = worker_process("score")
    # when the worker takes it, and a good message after it
    redis.lpush(keys.SCORE_QUEUE, *garbage)
    request_id = client.submit(image_url=web.url("a.png"), prompt="", priority=0)
    # then the good one is scored by the same process, and every other is kept with the reason
    assert client.result(request_id, timeout=60).status == "scored"
    eventually(lambda: redis.hlen(keys.DEAD) == len(garbage), "dead letters")
    assert worker.process.poll() is None
    assert {letter.code for letter in client.dead_letters()} == {"request_invalid"}
    assert any("delivery_tag" in letter.reason for letter in client.dead_letters())
    assert [letter.reason for letter in client.dead_letters() if letter.cut] == [
        f"message is {len(oversized)} bytes, more than {message.MAX_MESSAGE_BYTES}"
    ]
    eventually(lambda: redis.hlen("unacked") == 0, "every message acknowledged")


def test_prompts_and_urls_are_in_no_log(client: Client, redis: Redis, web: Web, worker_process: Start) -> None:
    # given a picture that fails, one that does not, and a message of an unknown task
    web.answers["private.png"] = [404]
    worker = worker_process("score")
    secret = {"image_url": web.url("private.png"), "prompt": "a private wish"}
    # when they are handled
    ids = [client.submit(**secret), client.submit(image_url=web.url("private2.png"), prompt="a private wish")]
    stranger = json.loads(message.envelope(keys.SCORE_QUEUE, secret, task_id="x"))
    stranger["headers"]["task"] = "other.task"
    redis.lpush(keys.SCORE_QUEUE, json.dumps(stranger))
    for request_id in ids:
        client.result(request_id, timeout=60)
    eventually(lambda: redis.hlen(keys.DEAD), "the dead letter")
    # then nothing private is in the log
    assert worker.terminate() == 0
    assert "private" not in worker.log


def test_what_a_stranger_named_is_shown_short_and_harmless(
    client: Client, redis: Redis, web: Web, worker_process: Start
) -> None:
    # given messages whose names are long, or speak to a terminal
    long, loud = "x" * 500_000, "\x1b[2J\u202e"
    workers = [worker_process("score"), worker_process("deliver")]
    redis.lpush(
        keys.SCORE_QUEUE,
        message.envelope(keys.SCORE_QUEUE, {"request_id": "r", "prompt": "p", long: 1, loud: 1}, task_id="r"),
        message.envelope(keys.SCORE_QUEUE, {"request_id": "\x1b[2J", "prompt": "p"}, task_id="s"),
    )
    private = {"request_id": "d", "url": ["https://private"], long: 1, loud: 1}
    redis.lpush(keys.DELIVER_QUEUE, message.envelope(keys.DELIVER_QUEUE, private, task_id="d"))
    # when workers refuse them
    verdict = client.result("r", timeout=60)
    letters = eventually(lambda: len(found := list(client.dead_letters())) == 2 and found, "the dead letters")
    # then no word of theirs is longer than a line, or more than words
    assert verdict.error is not None
    for text in (verdict.error.message, *verdict.reasons, *(letter.reason for letter in letters)):
        assert len(text) < 1_000
        assert text.isprintable()
    assert {letter.request_id for letter in letters} == {None, "d"}
    for worker in workers:
        assert worker.terminate() == 0
        assert len(worker.log) < 50_000
        assert "private" not in worker.log
        assert "\x1b[2J" not in worker.log


def test_times_that_nobody_can_compute_with_are_refused_at_once(
    client: Client, redis: Redis, web: Web, worker_process: Start
) -> None:
    # given requests of the years 9999 and 1, in zones where UTC is a year that does not exist
    times = {"late": "9999-12-31T23:59:59-12:00", "early": "0001-01-01T00:00:00+12:00"}
    worker_process("score")
    for name, time in times.items():
        request = {"image_url": web.url("a.png"), "prompt": "", "request_id": name, "submitted_at": time}
        redis.lpush(keys.SCORE_QUEUE, message.envelope(keys.SCORE_QUEUE, request, task_id=name))
    # then each is answered at its first attempt
    for name in times:
        verdict = client.result(name, timeout=60)
        assert verdict.error is not None
        assert (verdict.error.code, verdict.attempt) == ("request_invalid", 1)
        assert verdict.error.message == "submitted_at: Value error, must lie in the years 2000 to 2999 (UTC)"


def test_a_server_whose_headers_are_malformed_puts_nothing_into_the_log(
    client: Client, serve: Any, worker_process: Start
) -> None:
    server = serve(lambda request: request.wfile.write(b"HTTP/1.1 200 OK\r\nX-private-header\r\n\r\n"))
    worker = worker_process("score", fetch_allow_hosts=server.netloc)
    verdict = client.result(client.submit(image_url=f"{server.url}/private?token=x", prompt=""), timeout=60)
    assert verdict.status == "failed"
    assert worker.terminate() == 0
    assert "private" not in worker.log


def test_an_outcome_that_cannot_be_kept_leaves_the_request_on_the_queue(
    client: Client, redis: Redis, web: Web, worker_process: Start
) -> None:
    # given a Redis that refuses deliveries
    redis.set(keys.DELIVER_QUEUE, "something else has this name")
    worker = worker_process("score")
    client.submit(image_url=web.url("a.png"), prompt="", callback_url=web.url("hook"))
    eventually(lambda: "back on the queue" in worker.log, "the refusal")
    # when it takes them again
    redis.delete(keys.DELIVER_QUEUE)
    # then the delivery is there
    eventually(lambda: redis.llen(keys.DELIVER_QUEUE) == 1, "the delivery")
    eventually(lambda: redis.hlen("unacked") == 0, "the message acknowledged")


def test_a_message_that_shows_a_defect_of_ours_is_kept(redis: Redis, worker_process: Start) -> None:
    # given a delivery that no worker of ours wrote
    worker = worker_process("deliver")
    redis.lpush(keys.DELIVER_QUEUE, message.envelope(keys.DELIVER_QUEUE, {"request_id": "x", "url": 7}, task_id="x"))
    # then it is a dead letter, and the worker goes on
    eventually(lambda: redis.hlen(keys.DEAD), "a dead letter")
    letter = DeadLetter.model_validate_json(redis.hvals(keys.DEAD)[0])
    assert (letter.request_id, letter.code) == ("x", "internal_error")
    assert message.parse(letter.message, keys.DELIVER_QUEUE).payload["url"] == 7
    assert worker.terminate() == 0


@pytest.fixture
def monitor(redis_url: str) -> Iterator[Celery]:
    """Celery as Flower has it."""
    with Celery(broker=redis_url, set_as_current=False) as app:
        app.conf.broker_transport_options = {"sep": message.SEPARATOR}
        yield app


@pytest.fixture
def events(monitor: Celery) -> Iterator[list[dict[str, object]]]:
    """What workers announce, as it comes."""
    got: list[dict[str, object]] = []
    with monitor.connection_for_read() as connection:
        receiver = monitor.events.Receiver(connection, handlers={"*": got.append})
        listening = threading.Thread(target=lambda: receiver.capture(wakeup=False))
        listening.start()
        yield got
        receiver.should_stop = True
        listening.join()


def test_monitors_see_no_arguments(
    redis: Redis, web: Web, worker_process: Start, monitor: Celery, events: list[dict[str, object]]
) -> None:
    # given a worker with a task in its hands, whose producer wrote its arguments where monitors look
    worker_process("score")
    eventually(lambda: events, "the worker's heartbeat")
    web.gate.clear()
    request = {"image_url": web.url("private.png"), "prompt": "a private wish", "request_id": "x"}
    raw = json.loads(message.envelope(keys.SCORE_QUEUE, request, task_id="x"))
    raw["headers"]["argsrepr"] = "private"
    redis.lpush(keys.SCORE_QUEUE, json.dumps(raw))
    # when monitors look at it, live and by events
    [active] = eventually(lambda: next(iter((monitor.control.inspect().active() or {}).values()), None), "a task")
    web.gate.set()
    eventually(lambda: "task-succeeded" in {event["type"] for event in events}, "the task's end")
    # then they see the task, and nothing of what it is about
    assert active["id"] == "x"
    assert {event["type"] for event in events} >= {"task-received", "task-started"}
    assert "private" not in json.dumps([active, events])


#: What Celery 5.6 and kombu 5.7 read of a message beside its task, id and request.
HEADERS = (
    "lang", "root_id", "parent_id", "group", "group_index", "timelimit", "shadow", "argsrepr", "kwargsrepr", "origin",
    "ignore_result", "replaced_task_nesting", "stamped_headers", "stamps", "compression", "x-custom", "reply_to",
    "delivery_info", "redirected", "utc", "hostname",
)  # fmt: skip
PROPERTIES = (
    "correlation_id", "reply_to", "delivery_mode", "expiration", "user_id", "cluster_id", "type", "app_id",
    "message_id", "timestamp",
)  # fmt: skip
ODD: tuple[Any, ...] = (
    5, -1, 1.5, True, "", "zlib", "a\nforged line of the log", [1], [5, 5], {"a": 1}, ["x", {"y": [None]}], "x" * 5000,
)  # fmt: skip


def test_no_header_or_property_of_a_stranger_reaches_celery(
    client: Client, redis: Redis, web: Web, worker_process: Start
) -> None:
    # given a worker with few threads
    worker = worker_process("score", concurrency=4, max_batch=2)
    sent = 0
    # when every header and property that Celery reads comes with every odd value, and a neighbour behind each kind
    for part, names in (("headers", HEADERS), ("properties", PROPERTIES)):
        for name in names:
            for number, odd in enumerate(ODD):
                request = {
                    "image_url": web.url("a.png"),
                    "prompt": "a private wish",
                    "request_id": f"{part}-{name}-{number}",
                }
                hostile = json.loads(message.envelope(keys.SCORE_QUEUE, request, task_id=request["request_id"]))
                hostile[part][name] = odd
                redis.lpush(keys.SCORE_QUEUE, json.dumps(hostile))
                sent += 1
            neighbour = client.submit(image_url=web.url("b.png"), prompt="", priority=0)
            assert client.result(neighbour, timeout=60).status == "scored"
    # then each was scored like any other, by the same process
    eventually(lambda: len(redis.keys(keys.result("*"))) == sent + len(HEADERS) + len(PROPERTIES), "every verdict")
    eventually(lambda: redis.hlen("unacked") == 0, "every message acknowledged")
    assert worker.process.poll() is None
    assert redis.hlen(keys.DEAD) == 0
    assert sent >= 300
    assert "forged line" not in worker.log
    assert "private wish" not in worker.log


def test_nobody_steers_a_worker_from_outside_but_everybody_may_ask(
    client: Client, redis: Redis, redis_url: str, web: Web, worker_process: Start
) -> None:
    # given a worker, and somebody who reaches Redis
    worker = worker_process("score")
    told = Celery(broker=redis_url, broker_transport_options={"sep": message.SEPARATOR})
    # when he sends every command that would stop it
    for command, arguments in {
        "shutdown": {},
        "cancel_consumer": {"queue": "score"},
        "rate_limit": {"task_name": keys.SCORE_TASK, "rate_limit": "1/h"},
        "revoke": {"task_id": "mine", "terminate": True},
        "pool_shrink": {"n": 100},
        "time_limit": {"task_name": keys.SCORE_TASK, "hard": 1},
    }.items():
        told.control.broadcast(command, arguments)
    # then it is there, says so, and works
    assert eventually(lambda: told.control.ping(timeout=2), "an answer")
    mine = client.submit(image_url=web.url("a.png"), prompt="", request_id="mine")
    assert client.result(mine, timeout=60).status == "scored"
    assert worker.process.poll() is None
