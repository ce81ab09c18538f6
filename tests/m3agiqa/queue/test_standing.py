from __future__ import annotations

import pytest
from redis import Redis

from m3agiqa.client import Client, State, Status
from m3agiqa.queue import inbox, keys
from m3agiqa.queue.ledger import Ledger
from m3agiqa.queue.standing import per_second
from tests.m3agiqa.queue.support import begin, owe, publish, request, taken


def test_who_waits_knows_the_place_and_the_time(client: Client, ledger: Ledger, redis: Redis) -> None:
    # given requests of one priority, one of which a worker has, and more urgent ones before them
    names = [f"r{number}" for number in range(5)]
    owe(ledger, redis, *(request(name).model_copy(update={"batch_id": "monday"}) for name in names))
    begin(ledger, taken(redis))
    inbox.push(redis, [request(name).model_copy(update={"priority": 3}) for name in ("a", "b")])
    # and workers who published ten verdicts in each of the last two minutes that are over
    publish(ledger, redis, "done")
    redis.delete(keys.RATE)
    redis.hset(keys.RATE, mapping={"100": 10, "101": 10, "102": 3})
    # when their places are asked for, and those of others
    found = client.status_many([*names, "done", "nobody", "a"])
    # then each knows how many are before it, and how long that takes
    assert [found[name].position for name in names] == [None, 3, 4, 5, 6]
    assert found["r1"].expected_s == pytest.approx(3 * 6)
    assert [found[name].state for name in ("r0", "r1")] == [State.FETCHING, State.SUBMITTED]
    assert {found[name].batch_id for name in names} == {"monday"}
    assert found["done"] == Status(request_id="done", state=State.SETTLED)
    # one that nobody knows, or that no worker has taken in, stands nowhere
    assert found["nobody"] == Status(request_id="nobody", state=None)
    assert found["a"].position is None


def test_what_waits_for_another_attempt_has_no_place(client: Client, ledger: Ledger, redis: Redis) -> None:
    owe(ledger, redis, request())
    begin(ledger, taken(redis)).postpone(1000, "away")
    assert client.status_many(["r"]) == {"r": Status(request_id="r", state=State.SUBMITTED)}


def test_many_are_asked_for_at_once(client: Client, redis: Redis) -> None:
    assert len(client.status_many(f"r{number}" for number in range(1200))) == 1200
    assert client.status_many([]) == {}


@pytest.mark.parametrize(
    ("counted", "rate"),
    [
        ({}, None),
        ({"100": "7"}, None),
        ({"100": "60", "101": "1"}, 1),
        ({"100": "60", "103": "1"}, 1 / 3),
        ({"100": "60", "x": "y", "101": "-", "102": "9"}, 1 / 2),
    ],
)
def test_the_rate_is_of_minutes_that_are_over(counted: dict[str, str], rate: float | None) -> None:
    assert per_second(counted) == (None if rate is None else pytest.approx(rate))


def test_workers_count_the_verdicts_of_each_minute(client: Client, ledger: Ledger, redis: Redis) -> None:
    # given minutes long past
    redis.hset(keys.RATE, mapping={str(minute): 1 for minute in range(5)})
    # when two are scored, and one is taken back
    for name in ("a", "b"):
        publish(ledger, redis, name)
    owe(ledger, redis, request("c"))
    assert client.cancel("c")
    # then the two count, for some minutes
    counted = redis.hgetall(keys.RATE)
    assert sum(int(count) for minute, count in counted.items() if int(minute) > 5) == 2
    assert 0 < redis.ttl(keys.RATE) <= 300
