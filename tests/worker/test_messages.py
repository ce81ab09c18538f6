"""Real workers get wrong and forged requests and messages: what they do, and what they show of them."""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import pytest
from celery import Celery
from redis import Redis

from m3agiqa.contract import Verdict
from m3agiqa.queue import keys
from m3agiqa.queue.inbox import MAX_ENTRY_BYTES
from producers import Client, State
from tests.support import PATIENCE_S, Web, Worker, eventually
from worker.celery_patches import wakeups

Start = Callable[..., Worker]

#: Longer than any test: what is put off comes when a test lets time pass.
LONG_S = "600"


def let_pass(redis: Redis, *tasks: str) -> None:
    """Let so much time pass for tasks that they are due."""
    for task in tasks:
        redis.zincrby(keys.OWED, -2 * float(LONG_S), task)


def envelope(queue: str, task_id: Any, part: str = "headers", **forged: Any) -> str:
    """A message as kombu writes it, in which a stranger changed what he liked, also the body."""
    made = json.loads(wakeups.message(queue, 0, "r"))
    made["body"] = base64.b64encode(b'[["a private wish"], {}, {}]').decode()
    made["headers"]["id"] = task_id
    made[part] |= forged
    return json.dumps(made)


def put_off(client: Client, request_id: str, kind: str) -> bool:
    """Whether an attempt at one of its tasks has failed, and another one comes after LONG_S."""
    return re.search(rf" {kind} again in \d{{3}}\.", "\n".join(client.history(request_id))) is not None


def drained(redis: Redis) -> bool:
    """Whether every message was taken and acknowledged."""
    return redis.llen(keys.SCORE_QUEUE) == redis.llen(keys.DELIVER_QUEUE) == redis.hlen("unacked") == 0


def posts(web: Web) -> list[tuple[str, bytes]]:
    return [(path, body) for method, path, body in web.requests if method == "POST"]


def test_an_invalid_request_that_names_itself_is_answered(
    client: Client, redis: Redis, web: Web, worker_process: Start
) -> None:
    # given requests with a wrong field, an unknown field, and text that no UTF-8 holds
    requests: dict[str, dict[str, object]] = {
        "wrong": {"image_url": "ftp://host/x.png", "prompt": "p", "metadata": {"k": 1}},
        "unknown": {"image_url": web.url("a.png"), "prompt": "p", "colour": "red"},
        "surrogate": {"image_url": web.url("a.png"), "prompt": "\ud800"},
        "metadata": {"image_url": web.url("a.png"), "prompt": "p", "metadata": {"k": "\ud800"}},
    }
    worker_process("score")
    # when they are pushed by a producer that did not check them
    for name, request in requests.items():
        redis.lpush(keys.inbox(3), json.dumps({**request, "request_id": name}))
    # then each is answered with a failed verdict
    for name in requests:
        verdict = client.result(name, timeout=60)
        assert verdict.error is not None
        assert verdict.error.code == "request_invalid"
        assert verdict.metadata == ({"k": 1} if name == "wrong" else {})
    assert web.requests == []


def test_what_is_no_request_becomes_a_dead_letter_and_the_worker_goes_on(
    client: Client, redis: Redis, web: Web, worker_process: Start
) -> None:
    # given an inbox with garbage in it, and messages of Celery's own
    nameless = '{"prompt": "no request id"}'
    oversized = "{" + " " * MAX_ENTRY_BYTES + "}"
    garbage = [b"not json", b"\xff\xfe", "[]", "7", "", nameless, oversized, wakeups.message(keys.SCORE_QUEUE, 3, "r")]
    worker = worker_process("score")
    # when the worker takes it, and a good request after it
    redis.lpush(keys.inbox(3), *garbage)
    request_id = client.submit(image_url=web.url("a.png"), prompt="")
    # then the good one is scored by the same process, and every other is kept with the reason
    assert client.result(request_id, timeout=60).status == "scored"
    letters = list(client.dead_letters())
    assert len(letters) == len(garbage)
    assert worker.process.poll() is None
    assert {(letter.code, letter.kind, letter.task) for letter in letters} == {("request_invalid", "request", None)}
    assert nameless in {letter.message for letter in letters}
    assert {letter.reason for letter in letters if letter.cut} == {
        f"{len(oversized)} bytes are more than {MAX_ENTRY_BYTES}",
        "not JSON in UTF-8",
    }
    eventually(lambda: redis.hlen("unacked") == 0, "every message acknowledged")


def test_prompts_and_urls_are_in_no_log(client: Client, redis: Redis, web: Web, worker_process: Start) -> None:
    # given an image that fails, one that does not, and what neither an inbox nor a list should hold
    web.answers["private.png"] = [404]
    worker = worker_process("score")
    secret = {"image_url": web.url("private.png"), "prompt": "a private wish"}
    redis.lpush(keys.inbox(3), json.dumps({**secret, "private": 1}), "private garbage")
    redis.lpush(keys.SCORE_QUEUE, json.dumps(secret), "private garbage", envelope(keys.SCORE_QUEUE, "private\n"))
    # when they are handled
    ids = [client.submit(**secret), client.submit(image_url=web.url("private2.png"), prompt="a private wish")]
    for request_id in ids:
        client.result(request_id, timeout=60)
    eventually(lambda: redis.hlen(keys.DEAD) == 2, "the dead letters")
    eventually(lambda: worker.log.count("named no task") == 3, "the messages dropped")
    # then nothing private is in the log
    assert worker.terminate() == 0
    assert "private" not in worker.log


def test_what_a_stranger_named_is_shown_short_and_harmless(
    client: Client, redis: Redis, web: Web, worker_process: Start
) -> None:
    # given requests whose names are long, or speak to a terminal
    long, loud = "x" * 500_000, "\x1b[2J\u202e"
    worker = worker_process("score")
    redis.lpush(
        keys.inbox(3),
        json.dumps({"request_id": "r", "prompt": "p", long: 1, loud: 1}),
        json.dumps({"request_id": "\x1b[2J", "prompt": "p"}),
        json.dumps({"request_id": "x" * 500_000, "prompt": "private"}),
    )
    # when a worker refuses them
    verdict = client.result("r", timeout=60)
    letters = eventually(lambda: len(found := list(client.dead_letters())) == 3 and found, "the dead letters")
    # then no word of theirs is longer than a line, or more than words
    assert verdict.error is not None
    for text in (verdict.error.message, *verdict.reasons, *(letter.reason for letter in letters)):
        assert len(text) < 1_000
        assert text.isprintable()
    assert {letter.request_id for letter in letters} == {None, "r"}
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
        redis.lpush(keys.inbox(3), json.dumps(request))
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


@pytest.fixture
def deaf(redis: Redis) -> Iterator[Callable[[bool], None]]:
    """Lets Redis refuse every script, or take it again, as where somebody changes the rights of users."""

    def set_deaf(refuses: bool) -> None:
        redis.execute_command("ACL", "SETUSER", "default", "-evalsha" if refuses else "+evalsha")

    yield set_deaf
    set_deaf(False)


def test_an_outcome_that_cannot_be_kept_leaves_the_request_owed(
    client: Client, redis: Redis, web: Web, worker_process: Start, deaf: Callable[[bool], None]
) -> None:
    # given an image that is being fetched
    worker = worker_process("score", lease_s=2)
    web.gate.clear()
    request_id = client.submit(image_url=web.url("a.png"), prompt="", callback_url=web.url("hook"))
    eventually(lambda: client.state(request_id) == State.FETCHING, "the image is being fetched")
    # when Redis refuses its verdict
    deaf(True)
    web.gate.set()
    eventually(lambda: "a task comes again" in worker.log, "the refusal")
    deaf(False)
    # then it is scored again once Redis takes it, and its delivery owed once
    assert client.result(request_id, timeout=PATIENCE_S).status == "scored"
    assert redis.lrange(keys.DELIVER_QUEUE, 0, -1) == [f"{request_id}:callback"]
    eventually(lambda: redis.hlen("unacked") == 0, "every message acknowledged")
    assert worker.terminate() == 0


def test_an_entry_that_shows_a_defect_of_ours_is_kept(
    client: Client, redis: Redis, web: Web, worker_process: Start
) -> None:
    # given a request in the ledger that no worker of ours wrote
    worker_process("deliver")
    broken = client.submit(image_url=web.url("a.png"), prompt="")
    eventually(lambda: client.state(broken) == State.SUBMITTED, "the request is taken in")
    redis.hset(keys.request(broken), "request", '{"image_url": 7}')
    # when it is to be scored
    worker = worker_process("score")
    [letter] = eventually(lambda: list(client.dead_letters()), "a dead letter")
    # then it is a dead letter, and the worker goes on
    assert (letter.request_id, letter.code, letter.message) == (broken, "internal_error", '{"image_url": 7}')
    assert client.result(client.submit(image_url=web.url("a.png"), prompt=""), timeout=60).status == "scored"
    assert worker.terminate() == 0


@pytest.fixture
def operator(redis_url: str) -> Iterator[Celery]:
    """Celery as Flower and its command line have it."""
    with Celery(broker=redis_url, set_as_current=False) as app:
        app.conf.broker_transport_options = {"sep": keys.SEPARATOR}
        yield app


@pytest.fixture
def events(operator: Celery) -> Iterator[list[dict[str, object]]]:
    """The events of workers, as they come."""
    got: list[dict[str, object]] = []
    with operator.connection_for_read() as connection:
        receiver = operator.events.Receiver(connection, handlers={"*": got.append})
        listening = threading.Thread(target=lambda: receiver.capture(wakeup=False))
        listening.start()
        yield got
        receiver.should_stop = True
        listening.join()


def test_monitors_see_names_and_nothing_else(
    client: Client, redis: Redis, web: Web, worker_process: Start, operator: Celery, events: list[dict[str, object]]
) -> None:
    # given a worker with a task in its hands, and a stranger who writes where monitors look
    worker_process("score")
    eventually(lambda: events, "the worker's heartbeat")
    web.gate.clear()
    client.submit(image_url=web.url("private.png"), prompt="a private wish", request_id="x")
    [active] = eventually(lambda: next(iter((operator.control.inspect().active() or {}).values()), None), "a task")
    shown = {"argsrepr": "private", "kwargsrepr": "private", "origin": "private", "shadow": "private"}
    redis.lpush(keys.SCORE_QUEUE, envelope(keys.SCORE_QUEUE, "y", **shown))
    # when monitors look at them, live and by events
    eventually(lambda: "y" in {event.get("uuid") for event in events}, "the stranger's task")
    web.gate.set()
    eventually(lambda: [event["type"] for event in events].count("task-succeeded") == 2, "the tasks' end")
    # then they see the task, and nothing of what it is about
    assert (active["id"], active["name"], active["args"]) == ("x", keys.SCORE_TASK, ["x"])
    assert {event["type"] for event in events} >= {"task-received", "task-started"}
    assert "private" not in json.dumps([active, events])


#: Headers of a message that Celery 5.6 and kombu 5.7 read beside its task and id.
HEADERS = (
    "lang", "root_id", "parent_id", "group", "group_index", "timelimit", "shadow", "argsrepr", "kwargsrepr", "origin",
    "ignore_result", "replaced_task_nesting", "stamped_headers", "stamps", "compression", "x-custom", "reply_to",
    "delivery_info", "redirected", "utc", "hostname", "task", "eta", "expires", "retries",
)  # fmt: skip
PROPERTIES = (
    "correlation_id", "reply_to", "delivery_mode", "expiration", "user_id", "cluster_id", "type", "app_id",
    "message_id", "timestamp", "delivery_tag", "delivery_info", "priority", "body_encoding",
)  # fmt: skip
ODD: tuple[Any, ...] = (
    5, -1, 1.5, True, "", "zlib", "a\nforged line of the log", [1], [5, 5], {"a": 1}, ["x", {"y": [None]}], "x" * 5000,
)  # fmt: skip


def test_no_header_or_property_of_a_stranger_reaches_celery(
    client: Client, redis: Redis, web: Web, worker_process: Start
) -> None:
    # given a worker with few threads, and a request that waits for its next attempt
    web.answers["late.png"] = [503, 200]
    worker = worker_process("score", concurrency=4, max_batch=2, score_retry_delays_s=LONG_S)
    client.submit(image_url=web.url("late.png"), prompt="a private wish", request_id="owed")
    eventually(lambda: put_off(client, "owed", "score"), "its first attempt has failed")
    # when every header and property that Celery reads comes with every odd value, under the names of that request, of
    # none, and of a neighbour that comes behind each kind
    sent, neighbours = 0, []
    for part, names in (("headers", HEADERS), ("properties", PROPERTIES)):
        for name in names:
            neighbour = f"{part}-{name}"
            for odd in ODD:
                ids = ("owed", "unknown", neighbour, "a\nforged line", 7)
                redis.lpush(keys.SCORE_QUEUE, *(envelope(keys.SCORE_QUEUE, each, part, **{name: odd}) for each in ids))
                sent += 1
            client.submit(image_url=web.url(f"{neighbour}.png"), prompt="", priority=0, request_id=neighbour)
            assert client.result(neighbour, timeout=60).status == "scored"
            neighbours.append(neighbour)
    # then the same process scored every neighbour once, and put off what is put off
    eventually(lambda: drained(redis), "every message acknowledged")
    assert worker.process.poll() is None
    assert sent >= 300
    assert [web.count(f"{neighbour}.png") for neighbour in neighbours] == [1] * len(neighbours)
    assert web.count("late.png") == 1
    let_pass(redis, "owed")
    assert client.result("owed", timeout=60).status == "scored"
    assert redis.hlen(keys.DEAD) == 0
    # and shows nothing of what the stranger wrote
    assert worker.terminate() == 0
    assert "named no task and was dropped" in worker.log
    assert "forged line" not in worker.log
    assert "private wish" not in worker.log
    assert web.endpoint not in worker.log


def forged_names(*tasks: str) -> Iterator[str | bytes]:
    """Names of tasks, names of nobody, garbage, and what is too long; over and over."""
    while True:
        yield from tasks
        yield from ("nobody", "nobody:callback", "nobody:s3", "nobody:score", "::", "m3agiqa:owed", "", "{", "[[]]")
        yield from (b"\xff\xfe\x00", "a\nforged line", "x" * 100_000, '{"headers": {"id": "' + "y" * 100_000 + '"}}')
        yield envelope(keys.SCORE_QUEUE, "nobody")
        yield envelope(keys.DELIVER_QUEUE, "nobody:callback")


def test_a_thousand_forged_names_wake_nobody_who_is_not_owed(
    client: Client, redis: Redis, web: Web, worker_process: Start
) -> None:
    # given a request and a delivery that wait for their next attempts
    web.answers |= {"late.png": [503, 200], "late-hook": [503, 200]}
    workers = [
        worker_process("score", score_retry_delays_s=LONG_S),
        worker_process("deliver", deliver_retry_delays_s=LONG_S),
    ]
    waiting = ("late", "scored:callback")
    client.submit(image_url=web.url("late.png"), prompt="", callback_url=web.url("hook-late"), request_id="late")
    client.submit(image_url=web.url("a.png"), prompt="", callback_url=web.url("late-hook"), request_id="scored")
    eventually(
        lambda: put_off(client, "late", "score") and put_off(client, "scored", "callback"),
        "their first attempts have failed",
    )
    # when a thousand messages name them, and neighbours, and nobody, on both queues
    neighbours = [f"n{number}" for number in range(20)]
    named = [*waiting, "scored", "late:callback", *neighbours, *(f"{neighbour}:callback" for neighbour in neighbours)]
    storm = forged_names(*named)
    for neighbour in neighbours:
        for queue in (keys.SCORE_QUEUE, keys.DELIVER_QUEUE):
            redis.lpush(queue, *islice(storm, 25))
        client.submit(
            image_url=web.url(f"{neighbour}.png"),
            prompt="",
            callback_url=web.url(f"hook-{neighbour}"),
            request_id=neighbour,
        )
    # then every neighbour is scored and called back once, by the same processes
    for neighbour in neighbours:
        assert client.result(neighbour, timeout=60).status == "scored"
    eventually(lambda: {client.state(each) for each in neighbours} == {State.SETTLED}, "every callback")
    eventually(lambda: drained(redis), "every message acknowledged")
    assert [worker.process.poll() for worker in workers] == [None, None]
    # and what waits is not tried before it is due, and then once
    assert (web.count("late.png"), web.count("late-hook"), web.count("hook-late")) == (1, 1, 0)
    let_pass(redis, *waiting)
    eventually(lambda: {client.state(each) for each in ("late", "scored")} == {State.SETTLED}, "nothing is owed")
    assert (web.count("late.png"), web.count("late-hook"), web.count("hook-late")) == (2, 2, 1)
    for neighbour in neighbours:
        assert (web.count(f"{neighbour}.png"), web.count(f"hook-{neighbour}")) == (1, 1)
    assert redis.hlen(keys.DEAD) == redis.zcard(keys.UNREAD) == 0
    for worker in workers:
        assert worker.terminate() == 0
        assert "forged line" not in worker.log
        assert "ERROR" not in worker.log


def test_what_is_forged_on_the_deliver_queue_has_nothing_signed_or_sent(
    client: Client, redis: Redis, web: Web, worker_process: Start
) -> None:
    # given a request that is called back, one without a callback, one that is not scored yet, and one whose receiver
    # did not take its verdict
    web.answers |= {"late.png": [503], "busy": [503, 200]}
    worker_process("score", score_retry_delays_s=LONG_S)
    worker = worker_process("deliver", deliver_retry_delays_s=LONG_S)
    client.submit(image_url=web.url("a.png"), prompt="", callback_url=web.url("hook"), request_id="done")
    client.submit(image_url=web.url("a.png"), prompt="", request_id="quiet")
    client.submit(image_url=web.url("late.png"), prompt="", callback_url=web.url("early"), request_id="unscored")
    client.submit(image_url=web.url("a.png"), prompt="", callback_url=web.url("busy"), request_id="refused")
    eventually(lambda: {client.state(each) for each in ("done", "quiet")} == {State.SETTLED}, "two are settled")
    eventually(
        lambda: put_off(client, "unscored", "score") and put_off(client, "refused", "callback"), "two are put off"
    )
    # when a stranger asks for deliveries, by name and with bodies of his own
    forged = {"request_id": "done", "url": web.url("forged"), "body": '{"decision": "accept"}', "kind": "callback"}
    body = base64.b64encode(json.dumps([[forged], {}, {}]).encode()).decode()
    for name in ("done", "quiet", "unscored", "refused", "nobody"):
        for kind in ("callback", "s3", "score"):
            task = f"{name}:{kind}"
            whole = json.loads(envelope(keys.DELIVER_QUEUE, task))
            old = {"body": body, "headers": {"id": task, "task": "m3agiqa.deliver"}, "properties": {}}
            redis.lpush(keys.DELIVER_QUEUE, task, json.dumps({**whole, "body": body}), json.dumps(old))
    redis.lpush(keys.DELIVER_QUEUE, json.dumps(forged), "done", "unscored")
    redis.lpush(keys.SCORE_QUEUE, "quiet:callback", "unscored:callback")
    # then nothing is sent but what is owed: a neighbour's verdict, and, once it is due, the one that was not taken
    client.submit(image_url=web.url("a.png"), prompt="", callback_url=web.url("neighbour"), request_id="neighbour")
    eventually(lambda: web.count("neighbour"), "the neighbour's callback")
    eventually(lambda: drained(redis), "every message acknowledged")
    receivers = {"/hook": "done", "/busy": "refused", "/neighbour": "neighbour"}
    assert sorted(path for path, _ in posts(web)) == sorted(receivers)
    let_pass(redis, "refused:callback")
    eventually(lambda: client.state("refused") == State.SETTLED, "the verdict that was not taken")
    assert sorted(path for path, _ in posts(web)) == sorted([*receivers, "/busy"])
    for path, sent in posts(web):
        assert Verdict.model_validate_json(sent) == client.result(receivers[path], timeout=0)
    assert redis.hlen(keys.DEAD) == 0
    assert worker.terminate() == 0
    assert "forged" not in worker.log


def revoke(operator: Celery, task: str, workers: int) -> None:
    """Revoke a task, and wait until so many workers know."""
    operator.control.revoke(task)

    def known() -> bool:
        told = operator.control.inspect().revoked() or {}
        return sum(task in tasks for tasks in told.values()) == workers

    eventually(known, f"{workers} workers know that {task} is revoked")


def start_and_revoke(worker_process: Start, operator: Celery, task: str) -> list[Worker]:
    """A worker that scores and one that delivers, which obey, and know that a task is revoked."""
    workers = [worker_process(queue, remote_control=True) for queue in ("score", "deliver")]
    revoke(operator, task, workers=2)
    return workers


def test_a_request_that_was_revoked_is_answered_unscored(
    client: Client, redis: Redis, web: Web, worker_process: Start, operator: Celery
) -> None:
    # given an operator who takes a request back before it runs
    workers = start_and_revoke(worker_process, operator, "mine")
    # when it comes
    client.submit(image_url=web.url("mine.png"), prompt="", callback_url=web.url("hook"), request_id="mine")
    # then its caller is told so, by verdict and callback
    verdict = client.result("mine", timeout=60)
    assert (verdict.status, verdict.decision, verdict.error and verdict.error.code) == ("failed", "review", "revoked")
    eventually(lambda: client.state("mine") == State.SETTLED, "the callback")
    [(_, body)] = posts(web)
    assert Verdict.model_validate_json(body) == verdict
    # and nothing of it is left, while others are scored
    neighbour = client.submit(image_url=web.url("a.png"), prompt="")
    assert client.result(neighbour, timeout=60).status == "scored"
    eventually(lambda: redis.hlen("unacked") == 0, "every message acknowledged")
    assert redis.zcard(keys.OWED) == redis.hlen(keys.DEAD) == web.count("mine.png") == 0
    assert [worker.terminate() for worker in workers] == [0, 0]
    assert workers[0].log.count("Discarding revoked task") == 1
    assert "ERROR" not in workers[0].log + workers[1].log


def test_a_delivery_that_was_revoked_becomes_a_dead_letter(
    client: Client, redis: Redis, web: Web, worker_process: Start, operator: Celery
) -> None:
    # given an operator who takes a delivery back before it runs
    workers = start_and_revoke(worker_process, operator, "mine:callback")
    # when its verdict is there
    client.submit(image_url=web.url("a.png"), prompt="", callback_url=web.url("hook"), request_id="mine")
    assert client.result("mine", timeout=60).status == "scored"
    # then it is given up, once, and nothing is sent
    eventually(lambda: client.state("mine") == State.DEAD, "the dead letter")
    [letter] = client.dead_letters()
    assert (letter.request_id, letter.kind, letter.code, letter.task) == (
        "mine",
        "callback",
        "revoked",
        "mine:callback",
    )
    eventually(lambda: redis.hlen("unacked") == 0, "every message acknowledged")
    assert redis.zcard(keys.OWED) == 0
    # and others get theirs
    client.submit(image_url=web.url("a.png"), prompt="", callback_url=web.url("neighbour"))
    eventually(lambda: web.count("neighbour"), "the neighbour's callback")
    assert [path for path, _ in posts(web)] == ["/neighbour"]
    assert [worker.terminate() for worker in workers] == [0, 0]
    assert workers[1].log.count("Discarding revoked task") == 1


def test_to_revoke_what_runs_already_changes_nothing(
    client: Client, redis: Redis, web: Web, worker_process: Start, operator: Celery
) -> None:
    # given a worker that obeys, with an image in its hands
    worker = worker_process("score", remote_control=True)
    web.gate.clear()
    client.submit(image_url=web.url("a.png"), prompt="", request_id="mine")
    eventually(lambda: client.state("mine") == State.FETCHING, "the image is being fetched")
    # when an operator would have it ended at once
    operator.control.revoke("mine", terminate=True)
    revoke(operator, "mine", workers=1)
    web.gate.set()
    # then it ends as it would, and so does the worker
    assert client.result("mine", timeout=60).status == "scored"
    eventually(lambda: redis.hlen("unacked") == 0, "every message acknowledged")
    assert worker.terminate() == 0


def test_nobody_steers_a_worker_from_outside_but_everybody_may_ask(
    client: Client, redis: Redis, web: Web, worker_process: Start, operator: Celery
) -> None:
    # given a worker, and somebody who reaches Redis
    worker = worker_process("score")
    # when he sends every command that would stop it
    for command, arguments in {
        "shutdown": {},
        "cancel_consumer": {"queue": "score"},
        "rate_limit": {"task_name": keys.SCORE_TASK, "rate_limit": "1/h"},
        "revoke": {"task_id": "mine", "terminate": True},
        "pool_shrink": {"n": 100},
        "time_limit": {"task_name": keys.SCORE_TASK, "hard": 1},
    }.items():
        operator.control.broadcast(command, arguments)
    # then it is there, says so, and works
    assert eventually(lambda: operator.control.ping(timeout=2), "an answer")
    mine = client.submit(image_url=web.url("a.png"), prompt="", request_id="mine")
    assert client.result(mine, timeout=60).status == "scored"
    assert worker.process.poll() is None
