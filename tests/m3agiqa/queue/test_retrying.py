"""A request that failed can be tried anew, and nothing else can."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from redis import Redis

from m3agiqa.client import Client, State
from m3agiqa.contract import Failure, ScoreRequest, Verdict
from m3agiqa.queue import inbox, keys
from m3agiqa.queue.ledger import Ledger
from tests.m3agiqa.queue.support import begin, begin_again, letters, owe, request, taken
from tests.support_verdicts import verdict

AWAY = Failure(code="fetch_refused", message="404", retryable=False)


def failed(name: str = "r") -> Verdict:
    return verdict(name, status="failed", error=AWAY)


def again(one: ScoreRequest) -> ScoreRequest:
    later = one.submitted_at + timedelta(hours=1)
    return one.model_copy(update={"retry_failed": True, "submitted_at": later})


def settle(ledger: Ledger, redis: Redis, said: Verdict, *places: str) -> ScoreRequest:
    """Have a request answered with this verdict, and delivered."""
    asked = request(said.request_id, *places)
    owe(ledger, redis, asked)
    assert begin(ledger, taken(redis)).publish(said)
    for place in places:
        begin(ledger, f"{said.request_id}:{place}").delivered("host")
    return asked


def test_a_failed_request_is_tried_anew(ledger: Ledger, client: Client, redis: Redis) -> None:
    # given a request that is settled with a failure
    asked = settle(ledger, redis, failed(), "callback")
    assert client.result("r", timeout=0).status == "failed"
    # when it is submitted again, to be tried anew
    owe(ledger, redis, again(asked))
    # then it has no verdict any more, waits like any other, and may be forgotten no sooner
    assert redis.exists(keys.result("r")) == 0
    assert client.state("r") == State.SUBMITTED
    assert redis.ttl(keys.request("r")) == -1
    claim = begin(ledger, taken(redis))
    assert (claim.attempt, claim.retries) == (1, 1)
    assert claim.request.submitted_at == again(asked).submitted_at
    # and its verdict is delivered, as another one than the first
    assert claim.publish(verdict("r"))
    delivery = begin(ledger, "r:callback")
    assert delivery.retries == 1
    delivery.delivered()
    assert (client.result("r", timeout=0).status, client.state("r")) == ("scored", State.SETTLED)


def test_one_that_was_taken_back_can_be_tried_anew(ledger: Ledger, client: Client, redis: Redis) -> None:
    owe(ledger, redis, asked := request())
    assert client.cancel("r")
    assert client.state("r") == State.CANCELLED
    owe(ledger, redis, again(asked))
    assert begin(ledger, "r").publish(verdict("r"))
    assert client.state("r") == State.SETTLED


def test_one_that_was_scored_stands(ledger: Ledger, client: Client, redis: Redis) -> None:
    asked = settle(ledger, redis, verdict("r"))
    before = redis.get(keys.result("r"))
    owe(ledger, redis, again(asked))
    assert redis.get(keys.result("r")) == before
    assert (client.state("r"), redis.zcard(keys.OWED)) == (State.SETTLED, 0)


def test_one_whose_verdict_has_expired_stands(ledger: Ledger, client: Client, redis: Redis) -> None:
    asked = settle(ledger, redis, failed())
    redis.delete(keys.result("r"))
    owe(ledger, redis, again(asked))
    assert redis.zcard(keys.OWED) == 0


@pytest.mark.parametrize("foreign", ["[]", "no JSON", None])
def test_a_verdict_that_is_none_holds_up_no_inbox(
    foreign: str | None, ledger: Ledger, client: Client, redis: Redis
) -> None:
    asked = settle(ledger, redis, failed())
    redis.delete(keys.result("r"))
    if foreign is None:
        redis.lpush(keys.result("r"), "x")
    else:
        redis.set(keys.result("r"), foreign)
    owe(ledger, redis, again(asked), request("next"))
    assert (client.state("r"), client.state("next")) == (State.SETTLED, State.SUBMITTED)


def test_without_the_wish_a_repetition_changes_nothing(ledger: Ledger, client: Client, redis: Redis) -> None:
    asked = settle(ledger, redis, failed())
    owe(ledger, redis, asked)
    assert (client.state("r"), redis.zcard(keys.OWED)) == (State.SETTLED, 0)


def test_what_waits_is_scored_or_delivered_is_not_begun_anew(ledger: Ledger, client: Client, redis: Redis) -> None:
    owe(ledger, redis, asked := request("r", "callback"))
    # while it waits, while a worker has it, and while its failure is owed to its receiver
    owe(ledger, redis, again(asked))
    assert redis.lrange("score:6", 0, -1) == ["r"]
    claim = begin(ledger, taken(redis))
    owe(ledger, redis, again(asked))
    assert claim.publish(failed())
    owe(ledger, redis, again(asked))
    assert redis.zrange(keys.OWED, 0, -1) == ["r:callback"]
    assert redis.exists(keys.result("r")) == 1


def test_poison_is_not_begun_anew_by_a_producer(ledger: Ledger, client: Client, redis: Redis) -> None:
    # given a request that killed its workers, and was answered so
    owe(ledger, redis, asked := request())
    for _ in range(3):
        claim = begin_again(ledger, redis)
    assert claim.poisoned
    assert claim.publish(failed())
    assert client.state("r") == State.DEAD
    # then its producer cannot have it kill more
    owe(ledger, redis, again(asked))
    assert (client.state("r"), redis.zcard(keys.OWED)) == (State.DEAD, 0)


def test_nobody_has_another_request_scored_under_the_id_of_one_that_failed(
    ledger: Ledger, client: Client, redis: Redis
) -> None:
    asked = settle(ledger, redis, failed())
    owe(ledger, redis, again(asked).model_copy(update={"prompt": "forged"}))
    assert client.state("r") == State.SETTLED
    assert client.result("r", timeout=0).status == "failed"
    assert ["forged" in letter.message for letter in letters(redis)] == [True]


def test_a_new_request_may_say_so_too(ledger: Ledger, redis: Redis) -> None:
    inbox.push(redis, [again(request())])
    assert ledger.admit(6) == 1
    claim = begin(ledger, "r")
    assert (claim.retries, claim.request.submitted_at > datetime.now(UTC)) == (0, True)


def test_a_run_of_an_earlier_try_answers_nothing(ledger: Ledger, client: Client, redis: Redis) -> None:
    # given a worker that still has a request when it is taken back, and tried anew
    owe(ledger, redis, asked := request())
    late = begin(ledger, taken(redis))
    assert client.cancel("r")
    owe(ledger, redis, again(asked))
    # when the worker comes to its end, whichever
    assert not late.publish(failed())
    late.postpone(3600, "late")
    late.bury(ValueError("late"))
    # then the new try waits for its own verdict
    assert letters(redis) == []
    assert begin(ledger, "r").publish(verdict("r"))
    assert client.result("r", timeout=0).status == "scored"


def test_a_delivery_of_an_earlier_try_settles_nothing(ledger: Ledger, client: Client, redis: Redis) -> None:
    # given a delivery that stalled, while another worker made it
    owe(ledger, redis, asked := request("r", "callback"))
    assert begin(ledger, taken(redis)).publish(failed())
    late = begin(ledger, "r:callback")
    late.ledger.settle(late)
    owe(ledger, redis, again(asked))
    assert begin(ledger, "r").publish(verdict("r"))
    # when it ends after the request was tried anew
    late.delivered()
    # then the second verdict is still owed
    assert redis.hexists(keys.request("r"), "callback")
    begin(ledger, "r:callback").delivered()
    assert client.state("r") == State.SETTLED


def test_a_run_of_an_erased_request_answers_no_other_of_its_id(ledger: Ledger, client: Client, redis: Redis) -> None:
    owe(ledger, redis, request())
    late = begin(ledger, taken(redis))
    client.erase("r")
    # given another request under the id
    owe(ledger, redis, request().model_copy(update={"prompt": "something else"}))
    assert not late.publish(failed())
    assert begin(ledger, "r").publish(verdict("r"))
    assert client.result("r", timeout=0).status == "scored"
