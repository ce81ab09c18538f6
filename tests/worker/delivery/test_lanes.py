from __future__ import annotations

import threading
from collections import Counter

import pytest

from m3agiqa.errors import Busy, DeliveryForbidden, DeliveryUnavailable
from tests.support import PATIENCE_S
from worker.delivery.lanes import Lanes


class Receivers:
    """Stands for receivers: `refusing` fail so many times, or always; items are `receiver-number`."""

    def __init__(self, **refusing: int | Exception) -> None:
        self.left = refusing
        self.got: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.running: Counter[str] = Counter()
        self.lock = threading.Lock()
        self.ended: dict[str, Exception | None] = {}

    def send(self, item: str) -> None:
        name = item.partition("-")[0]
        with self.lock:
            self.got[item] += 1
            self.running[name] += 1
            self.most[name] = max(self.most[name], self.running[name])
            left = self.left.get(name, 0)
            if isinstance(left, int) and left > 0:
                self.left[name] = left - 1
        try:
            if isinstance(left, Exception):
                raise left
            if left:
                raise DeliveryUnavailable("503")
        finally:
            with self.lock:
                self.running[name] -= 1

    def run(self, *items: str, threads: int = 8, per_receiver: int = 2, delays_s: tuple[float, ...] = ()) -> None:
        lanes = Lanes(self.send, threads=threads, per_receiver=per_receiver, retry_delays_s=delays_s)
        lanes.run(((item.partition("-")[0], item) for item in items), self.ended.__setitem__)


def many(name: str, number: int = 50) -> list[str]:
    return [f"{name}-{each}" for each in range(number)]


def test_each_item_is_sent_once_and_few_at_a_time_to_one_receiver() -> None:
    receivers = Receivers()
    receivers.run(*many("a"), *many("b", 3), "c-0")
    assert receivers.got == Counter([*many("a"), *many("b", 3), "c-0"])
    assert receivers.ended == dict.fromkeys(receivers.got)
    assert max(receivers.most.values()) <= 2


def test_nothing_to_send_is_soon_done() -> None:
    receivers = Receivers()
    receivers.run()
    assert receivers.ended == {}


def test_what_failed_is_tried_again() -> None:
    receivers = Receivers(a=3)
    receivers.run(*many("a"), delays_s=(0.0, 0.01, 0.0))
    assert receivers.ended == dict.fromkeys(many("a"))
    assert receivers.got.total() == 53


def test_a_receiver_that_fails_is_given_up_and_costs_its_neighbours_nothing() -> None:
    # given a receiver that is down, with much to send before its neighbour's
    receivers = Receivers(down=10**9)
    receivers.run(*many("down", 1000), *many("up"), delays_s=(0.0, 0.01))
    # then the neighbour has all, and the other was asked a few times only: thrice two in a row, and what was on its way
    assert {item for item, error in receivers.ended.items() if error is None} == set(many("up"))
    assert sum(count for item, count in receivers.got.items() if item.startswith("down")) <= 8
    # and everything has ended
    assert len(receivers.ended) == 1050


def test_what_cannot_pass_is_not_tried_again_and_stops_no_other() -> None:
    receivers = Receivers(a=DeliveryForbidden("no secret"), b=ZeroDivisionError())
    receivers.run(*many("a", 5), *many("b", 5), *many("c", 5), delays_s=(0.0, 0.0))
    assert set(receivers.got.values()) == {1}
    assert {type(error) for error in receivers.ended.values()} == {DeliveryForbidden, ZeroDivisionError, type(None)}


def test_a_receiver_that_is_busy_gets_it_later_and_no_attempt_is_counted() -> None:
    receivers = Receivers(a=0)
    busy = iter([Busy("its share is taken", 0.01)] * 5)

    def send(item: str) -> None:
        if (error := next(busy, None)) is not None:
            raise error
        receivers.send(item)

    Lanes(send, threads=2, per_receiver=2, retry_delays_s=()).run(
        [("a", item) for item in many("a", 3)], receivers.ended.__setitem__
    )
    assert receivers.ended == dict.fromkeys(many("a", 3))


def test_whatever_ends_the_run_what_was_sent_is_told() -> None:
    # given a run that ends while an item is on its way
    under_way, go_on, sent = threading.Event(), threading.Event(), []
    told: list[str] = []

    def send(item: str) -> None:
        if item == "slow":
            under_way.set()
            assert go_on.wait(PATIENCE_S)
        sent.append(item)

    def ended(item: str, error: Exception | None) -> None:
        told.append(item)
        if item == "quick":
            assert under_way.wait(PATIENCE_S)
            go_on.set()
            raise KeyboardInterrupt

    lanes = Lanes(send, threads=2, per_receiver=1, retry_delays_s=())
    with pytest.raises(KeyboardInterrupt):
        lanes.run([("a", "slow"), ("b", "quick"), ("a", "never")], ended)
    # then both are told, and nothing else was sent
    assert sorted(told) == ["quick", "slow"] == sorted(sent)
