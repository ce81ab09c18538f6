"""What becomes of requests after a failover to a replica that lacks the last writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from redis import Redis

from m3agiqa.client import Client
from m3agiqa.queue import inbox, keys
from m3agiqa.queue.claim import Claim
from m3agiqa.queue.ledger import Ledger
from m3agiqa.queue.state import State
from tests.m3agiqa.queue.support import ENDS, begin, begin_again, letters, owe, pass_time, publish, request, taken
from tests.support_verdicts import verdict

#: Remembers what is in Redis; what it returns makes it so again, as a replica without later writes would.
Replica = Callable[[], Callable[[], None]]


@pytest.fixture
def replica(redis_url: str) -> Iterator[Replica]:
    with Redis.from_url(redis_url) as raw:

        def remember() -> Callable[[], None]:
            kept = {name: (raw.dump(name), max(0, raw.pttl(name))) for name in raw.scan_iter()}

            def take_over() -> None:
                raw.flushdb()
                for name, (value, ttl_ms) in kept.items():
                    raw.restore(name, ttl_ms, value)

            return take_over

        yield remember


def test_a_request_whose_admission_was_lost_is_taken_in_again(
    ledger: Ledger, redis: Redis, client: Client, replica: Replica
) -> None:
    inbox.push(redis, [request("r")])
    take_over = replica()
    ledger.admit(6)
    first = begin(ledger, taken(redis))
    take_over()
    # when the new primary has it in its inbox, and the worker that had begun publishes
    scored = verdict("r")
    assert first.publish(scored)
    # then it is answered once
    ledger.admit(6)
    assert redis.exists(keys.inbox(6), keys.OWED, keys.DEAD) == 0
    assert client.result("r", timeout=0) == scored


def two_claims(ledger: Ledger, redis: Redis, replica: Replica) -> tuple[Claim, Claim]:
    """The claim that was lost with the old primary, and another worker's of the same task."""
    owe(ledger, redis, request("r"))
    take_over = replica()
    first = begin(ledger, taken(redis))
    take_over()
    return first, begin(ledger, taken(redis))


def test_a_task_whose_claim_was_lost_may_run_twice_and_has_one_verdict(
    ledger: Ledger, redis: Redis, client: Client, replica: Replica
) -> None:
    # given a claim that the new primary never knew, so that another worker has a run of the same number
    first, second = two_claims(ledger, redis, replica)
    assert first.run == second.run
    # then whoever comes first is heard
    scored = verdict("r")
    assert second.publish(scored)
    assert not first.publish(verdict("r"))
    assert client.result("r", timeout=0) == scored
    assert client.state("r") == State.SETTLED


@pytest.mark.parametrize("end", [end for end in ENDS if end != "publish"])
def test_what_one_worker_ends_another_with_the_same_run_still_answers(
    end: str, ledger: Ledger, redis: Redis, client: Client, replica: Replica
) -> None:
    first, second = two_claims(ledger, redis, replica)
    # when the one that the new primary never knew ends its run in any way
    ENDS[end](first)
    # then the other's verdict is kept; only what was given up stays so, as a dead letter that can be replayed
    published = second.publish(verdict("r"))
    assert (published, len(letters(redis))) == ((False, 1) if end == "bury" else (True, 0))
    # and nothing is owed for ever
    pass_time(redis, 2000)
    ledger.sweep()
    assert redis.zcard(keys.OWED) == 0
    assert client.state("r") == (State.DEAD if end == "bury" else State.SETTLED)


def test_a_verdict_that_was_lost_is_made_again(ledger: Ledger, redis: Redis, client: Client, replica: Replica) -> None:
    owe(ledger, redis, request("r", "callback"))
    first = begin(ledger, taken(redis))
    take_over = replica()
    # given that its first verdict was even delivered
    first.publish(verdict("r"))
    begin(ledger, taken(redis, keys.DELIVER_QUEUE)).delivered()
    take_over()
    # when its lease is over, then it is scored again, and that verdict delivered under the same name
    again = begin_again(ledger, redis)
    scored = verdict("r")
    assert again.publish(scored)
    delivery = begin(ledger, taken(redis, keys.DELIVER_QUEUE))
    assert delivery.task == "r:callback"
    delivery.delivered()
    assert client.state("r") == State.SETTLED
    assert client.result("r", timeout=0) == scored


def test_a_delivery_whose_end_was_lost_comes_twice_and_says_the_same(
    ledger: Ledger, redis: Redis, client: Client, replica: Replica
) -> None:
    publish(ledger, redis, "r", "callback")
    first = begin(ledger, taken(redis, keys.DELIVER_QUEUE))
    take_over = replica()
    first.delivered()
    assert client.state("r") == State.SETTLED
    take_over()
    again = begin_again(ledger, redis, "r:callback")
    assert (again.task, again.verdict) == (first.task, first.verdict)
    again.delivered()
    assert client.state("r") == State.SETTLED


@pytest.mark.parametrize("end", [*(ENDS[name] for name in ENDS if name != "publish"), Claim.delivered])
def test_nothing_is_left_of_a_task_that_the_new_primary_never_knew(
    end: Callable[[Claim], object], ledger: Ledger, redis: Redis, replica: Replica
) -> None:
    take_over = replica()
    owe(ledger, redis, request("r"))
    claim = begin(ledger, taken(redis))
    take_over()
    end(claim)
    ledger.renew()
    assert redis.keys() == []
