from __future__ import annotations

from collections.abc import Iterator

import pytest
from redis import Redis

from m3agiqa.client import Client
from m3agiqa.errors import NotOwed, UsageError
from m3agiqa.queue import inbox, keys
from m3agiqa.queue.ledger import Ledger
from m3agiqa.queue.state import State
from tests.m3agiqa.queue.support import begin, letters, owe, pass_time, request
from tests.support_verdicts import verdict


@pytest.fixture
def ledger(redis_url: str) -> Iterator[Ledger]:
    ledger = Ledger(redis_url)
    yield ledger
    ledger.close()


def answered(client: Client, name: str) -> bool:
    found = client.result(name, timeout=0)
    assert (found.status, found.decision, found.aspects) == ("failed", "review", {})
    return found.error is not None and (found.error.code, found.error.retryable) == ("cancelled", False)


def test_a_request_that_waits_is_answered_and_called_back(client: Client, redis: Redis, ledger: Ledger) -> None:
    # given a request that workers took in
    owe(ledger, redis, request("r", "callback"))
    # when an operator takes it back
    assert client.cancel("r")
    # then it is answered, and owes the delivery of that alone
    assert answered(client, "r")
    assert redis.zrange(keys.OWED, 0, -1) == ["r:callback"]
    with pytest.raises(NotOwed):
        begin(ledger, "r")
    assert begin(ledger, "r:callback").verdict == redis.get(keys.result("r"))
    assert any(line.endswith("cancelled by an operator") for line in client.history("r"))
    # and a second time there is nothing to take back
    assert not client.cancel("r")


def test_one_that_no_worker_took_in_is_taken_back_as_well(client: Client, redis: Redis) -> None:
    inbox.push(redis, [request("r"), request("other")])
    assert client.cancel("r")
    assert answered(client, "r")
    assert client.state("r") == State.CANCELLED
    assert client.state("other") == State.SUBMITTED


def test_what_a_worker_finds_out_meanwhile_is_told_nobody(client: Client, redis: Redis, ledger: Ledger) -> None:
    # given a worker that has it
    owe(ledger, redis, request())
    claim = begin(ledger)
    # when it is taken back, and the worker goes on
    assert client.cancel("r")
    claim.mark_scoring()
    assert not claim.publish(verdict("r"))
    claim.postpone(0, "later")
    # then the answer stands, and nothing comes again
    assert answered(client, "r")
    assert client.state("r") == State.CANCELLED
    pass_time(redis, 10_000)
    assert ledger.sweep() == 0


def test_one_that_waits_to_be_tried_again_is_taken_back(client: Client, redis: Redis, ledger: Ledger) -> None:
    owe(ledger, redis, request())
    begin(ledger).postpone(1000, "the server is away")
    assert client.cancel("r")
    assert redis.zcard(keys.OWED) == 0


def test_what_has_its_answer_keeps_it(client: Client, redis: Redis, ledger: Ledger) -> None:
    owe(ledger, redis, request("r", "callback"))
    assert begin(ledger).publish(verdict("r"))
    assert not client.cancel("r")
    assert client.result("r", timeout=0).status == "scored"
    assert redis.zrange(keys.OWED, 0, -1) == ["r:callback"]


@pytest.mark.parametrize("name", ["r", "", "a:callback", "\x1b[31m", "x" * 5000])
def test_what_nobody_knows_is_told(name: str, client: Client) -> None:
    with pytest.raises(UsageError, match=r"^no request \S* is known") as told:
        client.cancel(name)
    assert "\x1b" not in str(told.value)


def test_what_cannot_be_read_is_told_and_others_are_purged(
    client: Client, redis: Redis, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    # given requests that wait in inbox and ledger, one that cannot be read, one answered, and an entry that is none
    owe(ledger, redis, request("done", "callback"), request("torn"), request("waits"))
    assert begin(ledger, "done").publish(verdict("done"))
    redis.hset(keys.request("torn"), "request", "{")
    inbox.push(redis, [request("new")])
    redis.lpush(keys.inbox(0), "no JSON")
    with pytest.raises(UsageError, match="torn cannot be read"):
        client.cancel("torn")
    # when all is purged
    assert set(client.purge()) == {"waits", "new"}
    # then those that waited are answered, and the rest is as it was
    assert answered(client, "waits")
    assert answered(client, "new")
    assert set(redis.zrange(keys.OWED, 0, -1)) == {"torn", "done:callback"}
    assert "torn cannot be read" in caplog.text
    assert [letter.code for letter in letters(redis)] == ["request_invalid"]
    assert set(redis.lrange("score:6", 0, -1)) == {"done", "torn"}
    assert list(client.purge()) == []
