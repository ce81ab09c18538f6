"""Who listens hears of every verdict, or that some may be missing."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from contextlib import closing

import pytest
from redis import Redis

from m3agiqa.errors import QueueUnavailable
from m3agiqa.queue import keys, watching
from m3agiqa.queue.connection import Connection
from m3agiqa.queue.watching import Watching
from tests.support import PATIENCE_S, eventually


@pytest.fixture
def watch(redis_url: str) -> Iterator[Watching]:
    with closing(Connection(redis_url)) as connection, closing(Watching(connection)) as watch:
        yield watch


def announce(redis: Redis, *names: str) -> None:
    for name in names:
        redis.publish(keys.done(name), "")


def subscriptions(redis: Redis) -> int:
    return int(redis.execute_command("PUBSUB", "NUMPAT"))


def test_all_who_listen_hear_of_all(watch: Watching, redis: Redis) -> None:
    first: queue.Queue[str | None] = queue.Queue()
    second: queue.Queue[str | None] = queue.Queue()
    with watch.listen(first.put):
        watch.begin(first.put)
        announce(redis, "a", "acme/b", "not one", "a/b/c", "")
        with watch.listen(second.put):
            watch.begin(second.put)
            announce(redis, "c")
            assert [first.get(timeout=PATIENCE_S) for _ in range(3)] == ["a", "acme/b", "c"]
            assert second.get(timeout=PATIENCE_S) == "c"
            # they share one subscription
            assert subscriptions(redis) == 1
    # and when nobody listens, there is none, until somebody does
    eventually(lambda: subscriptions(redis) == 0, "the subscription ends")
    with watch.listen(first.put):
        watch.begin(first.put)
        announce(redis, "d")
        assert first.get(timeout=PATIENCE_S) == "d"


def test_one_who_fails_stops_no_other(watch: Watching, redis: Redis) -> None:
    def fail(_: str | None) -> None:
        raise RuntimeError

    heard: queue.Queue[str | None] = queue.Queue()
    with watch.listen(fail), watch.listen(heard.put):
        watch.begin(heard.put)
        announce(redis, "a", "b")
        assert [heard.get(timeout=PATIENCE_S) for _ in range(2)] == ["a", "b"]


def test_a_lost_connection_is_told(watch: Watching, redis: Redis) -> None:
    heard: queue.Queue[str | None] = queue.Queue()
    with watch.listen(heard.put):
        watch.begin(heard.put)
        redis.client_kill_filter(_type="pubsub")
        assert heard.get(timeout=PATIENCE_S) is None
        with pytest.raises(QueueUnavailable):
            watch.begin(heard.put)
    # and whoever listens anew hears
    with watch.listen(heard.put):
        watch.begin(heard.put)
        announce(redis, "a")
        assert heard.get(timeout=PATIENCE_S) == "a"


def test_a_redis_that_is_away_is_told(unused_port: int) -> None:
    heard: queue.Queue[str | None] = queue.Queue()
    away = Connection(f"redis://127.0.0.1:{unused_port}/0", patience_s=0)
    with closing(away), closing(Watching(away)) as watch, watch.listen(heard.put):
        with pytest.raises(QueueUnavailable):
            watch.begin(heard.put)
        assert heard.get(timeout=PATIENCE_S) is None


def test_silence_is_no_subscription(watch: Watching, redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    # given that a fraction of a second without an answer is long
    monkeypatch.setattr(watching, "SILENCE_S", 0.05)
    heard: queue.Queue[str | None] = queue.Queue()
    with watch.listen(heard.put):
        watch.begin(heard.put)
        # when Redis does not answer for longer than that
        redis.execute_command("CLIENT", "PAUSE", 2_000, "ALL")
        assert heard.get(timeout=PATIENCE_S) is None
    redis.execute_command("CLIENT", "UNPAUSE")


def test_who_listens_to_a_closed_one_is_told(watch: Watching) -> None:
    heard: queue.Queue[str | None] = queue.Queue()
    with watch.listen(heard.put):
        watch.begin(heard.put)
        watch.close()
        assert heard.get(timeout=PATIENCE_S) is None
    with pytest.raises(QueueUnavailable), watch.listen(heard.put):
        pass
