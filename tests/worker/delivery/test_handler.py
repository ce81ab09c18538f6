from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from redis import Redis

from m3agiqa.contract import Failure, ScoreRequest, Verdict
from m3agiqa.errors import (
    Busy,
    DeliveryForbidden,
    DeliveryGone,
    DeliveryMisconfigured,
    DeliveryUnavailable,
    FetchRefused,
    NotOwed,
)
from m3agiqa.policy import Policy
from m3agiqa.queue import keys
from m3agiqa.queue.ledger import Ledger
from m3agiqa.verdict import assemble
from producers import Client, State
from tests.worker.conftest import come_due, owed
from worker.delivery.handler import RETRIES_IF_MISCONFIGURED, DeliveryHandler
from worker.delivery.sender import Delivery

HOOK, PLACE = "https://receiver.example/hook?token=1", "s3://bucket/prefix"


class Receiver:
    """Stands for a sender: fails until it does not."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure
        self.got: list[Delivery] = []

    def send(self, delivery: Delivery) -> str:
        if self.failure is not None:
            raise self.failure
        self.got.append(delivery)
        return f"{delivery.url}/{delivery.name}.json" if delivery.kind == "s3" else ""


def handler(ledger: Ledger, receiver: Any, *retry_delays_s: float) -> DeliveryHandler:
    return DeliveryHandler(ledger, receiver, retry_delays_s)


def request(**places: str) -> ScoreRequest:
    return ScoreRequest(image_url="https://images.example/1.png", prompt="größer", request_id="r", **places)


def verdict(asked: ScoreRequest) -> Verdict:
    return assemble(asked, Failure.from_error(FetchRefused("404")), (), policy=Policy.load("default"), model=None)


@pytest.fixture
def task(ledger: Ledger, redis: Redis) -> str:
    """A callback that is owed."""
    with ledger.claim(owed(ledger, redis, request(callback_url=HOOK))) as claim:
        claim.publish(verdict(claim.request))
    return "r:callback"


def test_what_is_sent_is_the_verdict_that_was_published(
    ledger: Ledger, redis: Redis, client: Client, task: str
) -> None:
    receiver = Receiver()
    assert handler(ledger, receiver).run(task).startswith("delivered (deliver ")
    [delivery] = receiver.got
    assert delivery.body == redis.get("m3agiqa:result:r")
    assert (delivery.request, delivery.kind, delivery.url) == ("r", "callback", HOOK)
    assert delivery.submitted_at == client.result("r", timeout=0).submitted_at
    assert client.state("r") == State.SETTLED


def test_each_place_gets_its_own_delivery_and_the_last_one_settles(
    ledger: Ledger, redis: Redis, client: Client
) -> None:
    # given a verdict for two places
    with ledger.claim(owed(ledger, redis, request(callback_url=HOOK, s3_uri=PLACE))) as claim:
        claim.publish(verdict(claim.request))
    receiver = Receiver()
    # when one of them has it
    handler(ledger, receiver).run("r:s3")
    assert client.state("r") == State.DELIVERING
    # then the other is owed still
    handler(ledger, receiver).run("r:callback")
    assert [(delivery.kind, delivery.url) for delivery in receiver.got] == [("s3", PLACE), ("callback", HOOK)]
    assert client.state("r") == State.SETTLED


def test_a_delivery_that_arrived_is_not_owed_again(ledger: Ledger, task: str) -> None:
    receiver = Receiver()
    handler(ledger, receiver).run(task)
    with pytest.raises(NotOwed):
        handler(ledger, receiver).run(task)
    assert len(receiver.got) == 1


def test_a_delivery_to_a_busy_receiver_is_put_off_and_has_no_attempt_less(
    ledger: Ledger, redis: Redis, client: Client, task: str
) -> None:
    # given a receiver that is busy more often than a delivery has attempts
    receiver = Receiver(Busy("its server has all threads that one may have", 7.5))
    for _ in range(10):
        with pytest.raises(Busy):
            handler(ledger, receiver).run(task)
        # when its time has come, and not before
        assert come_due(ledger, redis, 7) == 0
        assert come_due(ledger, redis, 0.6) == 1
    # then it is tried as if nothing had been
    receiver.failure = None
    assert handler(ledger, receiver).run(task).startswith("delivered (deliver ")
    assert client.state("r") == State.SETTLED


def test_each_attempt_waits_longer_and_after_the_last_one_it_is_a_dead_letter(
    ledger: Ledger, redis: Redis, client: Client, task: str
) -> None:
    receiver = Receiver(DeliveryUnavailable("receiver.example answered 503"))
    delivering = handler(ledger, receiver, 10, 100)
    for delay_s in (10, 100):
        assert delivering.run(task).startswith("delivery_unavailable, again in ")
        # a fifth more at the most
        assert come_due(ledger, redis, delay_s - 1) == 0
        assert come_due(ledger, redis, 1 + 0.2 * delay_s) == 1
    assert delivering.run(task).startswith("delivery_unavailable, given up (")
    [letter] = client.dead_letters()
    assert (letter.queue, letter.kind, letter.task) == ("deliver", "callback", "r:callback")
    assert (letter.code, letter.reason) == ("delivery_unavailable", "receiver.example answered 503")
    assert letter.attempts == 3
    assert any("receiver.example answered 503" in line for line in letter.history)
    assert client.state("r") == State.DEAD


def test_redis_knows_the_receiver_that_fails_until_it_has_a_verdict(
    ledger: Ledger, redis: Redis, client: Client, task: str
) -> None:
    # given a receiver whose first attempt fails, and whose last one is given up
    receiver = Receiver(DeliveryUnavailable("receiver.example answered 503"))
    delivering = handler(ledger, receiver, 10)
    for _ in range(2):
        delivering.run(task)
        assert list(client.overview().receivers_failing) == ["receiver.example"]
        redis.delete(keys.FAILING)
        come_due(ledger, redis, 13)
    # when it is there again
    redis.zadd(keys.FAILING, {"receiver.example": redis.time()[0]})
    receiver.failure = None
    client.replay(next(iter(client.dead_letters())))
    assert delivering.run(task).startswith("delivered (deliver ")
    # then it fails no more
    assert client.overview().receivers_failing == {}


def test_a_receiver_that_is_busy_or_gets_nothing_does_not_fail(ledger: Ledger, client: Client, task: str) -> None:
    with pytest.raises(Busy):
        handler(ledger, Receiver(Busy("its server has all threads that one may have", 7.5))).run(task)
    assert client.overview().receivers_failing == {}


def test_what_an_operator_has_to_change_is_tried_a_few_times(
    ledger: Ledger, redis: Redis, client: Client, task: str
) -> None:
    delivering = handler(ledger, Receiver(DeliveryMisconfigured("its clock is wrong")), *[10] * 7)
    for _ in range(RETRIES_IF_MISCONFIGURED):
        assert delivering.run(task).startswith("delivery_misconfigured, again in ")
        come_due(ledger, redis, 13)
    assert delivering.run(task).startswith("delivery_misconfigured, given up (")
    [letter] = client.dead_letters()
    assert (letter.code, letter.reason) == ("delivery_misconfigured", "its clock is wrong")
    assert client.replay(letter)


@pytest.mark.parametrize(("drawn", "delay"), [(min, "10.0"), (max, "12.0")])
def test_deliveries_that_failed_together_come_again_apart(
    ledger: Ledger, task: str, drawn: Callable[..., float], delay: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("random.uniform", drawn)
    receiver = Receiver(DeliveryUnavailable("receiver.example answered 503"))
    assert handler(ledger, receiver, 10).run(task).startswith(f"delivery_unavailable, again in {delay} s (")


def test_a_dead_delivery_comes_back_with_all_its_attempts(
    ledger: Ledger, redis: Redis, client: Client, task: str
) -> None:
    # given a delivery that was given up
    receiver = Receiver(DeliveryUnavailable("receiver.example answered 503"))
    delivering = handler(ledger, receiver, 10)
    delivering.run(task)
    come_due(ledger, redis, 13)
    delivering.run(task)
    # when an operator puts it back
    [letter] = client.dead_letters()
    assert client.replay(letter)
    # then it is tried as often as before
    assert delivering.run(task).startswith("delivery_unavailable, again in ")
    come_due(ledger, redis, 13)
    receiver.failure = None
    assert delivering.run(task).startswith("delivered (deliver ")
    [delivery] = receiver.got
    assert delivery.body == redis.get("m3agiqa:result:r")
    assert client.state("r") == State.SETTLED


@pytest.mark.parametrize("failure", [DeliveryForbidden("not allowed"), DeliveryGone("receiver.example answered 410")])
def test_what_no_other_attempt_can_change_is_given_up_at_once(
    ledger: Ledger, client: Client, task: str, failure: Exception
) -> None:
    assert handler(ledger, Receiver(failure), 10, 100).run(task).partition(" (")[0].endswith(", given up")
    [letter] = client.dead_letters()
    assert (letter.reason, letter.attempts) == (str(failure), 1)


@pytest.mark.parametrize(("asked_for_s", "delay_s"), [(None, 10), (0.0, 10), (3.0, 10), (60.0, 60)])
def test_a_receiver_that_asks_for_more_time_gets_it(
    ledger: Ledger, redis: Redis, task: str, asked_for_s: float | None, delay_s: float
) -> None:
    failure = DeliveryUnavailable("receiver.example answered 429", retry_after_s=asked_for_s)
    handler(ledger, Receiver(failure), 10).run(task)
    assert come_due(ledger, redis, delay_s - 1) == 0
    assert come_due(ledger, redis, 1 + 0.2 * delay_s) == 1


def test_what_nobody_foresaw_is_tried_again_and_its_words_are_nowhere(
    ledger: Ledger, redis: Redis, client: Client, task: str
) -> None:
    delivering = handler(ledger, Receiver(RuntimeError("SECRET")), 10)
    assert delivering.run(task).startswith("internal_error, again in ")
    come_due(ledger, redis, 13)
    assert delivering.run(task).startswith("internal_error, given up (")
    [letter] = client.dead_letters()
    assert letter.reason == "unexpected RuntimeError"
    assert "SECRET" not in letter.model_dump_json()


def test_a_delivery_that_takes_its_workers_along_is_given_up_unsent(
    ledger: Ledger, redis: Redis, client: Client, task: str
) -> None:
    # given two workers that died with it
    for _ in range(2):
        ledger._take(task)
        for _ in range(2):  # its lease, and being kept apart from others
            come_due(ledger, redis, 2000)
    # when a third has it
    receiver = Receiver()
    assert handler(ledger, receiver, 10).run(task) == "poison, given up"
    # then nothing of it is sent
    assert receiver.got == []
    [letter] = client.dead_letters()
    assert (letter.code, letter.kind, letter.attempts) == ("poison", "callback", 3)
