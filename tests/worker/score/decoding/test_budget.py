from __future__ import annotations

import threading

import pytest

from m3agiqa.errors import Busy
from tests.support import PATIENCE_S, eventually
from worker.score.decoding.budget import Budget


def test_room_is_taken_and_given_back() -> None:
    budget = Budget(100)
    with budget.hold() as first, budget.hold() as second:
        first.resize(60)
        second.resize(40)
        assert budget.taken_bytes == 100
        first.resize(10)
        second.resize(90)
        assert budget.taken_bytes == 100
    assert budget.taken_bytes == 0


def test_who_finds_no_room_is_put_off_and_keeps_what_it_had() -> None:
    budget = Budget(100)
    with budget.hold() as first, budget.hold() as second:
        first.resize(60)
        second.resize(40)
        with pytest.raises(Busy) as busy:
            second.resize(41)
        assert 0 < busy.value.delay_s <= 2
        assert budget.taken_bytes == 100
        second.resize(40)
        second.resize(39)
    assert budget.taken_bytes == 0


def test_a_image_larger_than_all_of_it_has_its_turn_alone() -> None:
    budget = Budget(100)
    with budget.hold() as first, budget.hold() as second:
        first.resize(1)
        second.resize(50)
        with pytest.raises(Busy):
            second.resize(500)
        first.resize(0)
        second.resize(500)
        with pytest.raises(Busy):
            first.resize(1)


def test_who_waits_goes_on_as_soon_as_there_is_room() -> None:
    budget = Budget(100)
    done = threading.Event()
    with budget.hold() as first:
        first.resize(60)

        def wait() -> None:
            with budget.hold() as second:
                second.resize(50, wait_s=PATIENCE_S)
                done.set()

        thread = threading.Thread(target=wait)
        thread.start()
        assert not done.wait(0.1)
        first.resize(50)
        assert done.wait(PATIENCE_S)
        thread.join(PATIENCE_S)
    eventually(lambda: budget.taken_bytes == 0, "all is given back")


def test_a_failure_gives_everything_back() -> None:
    budget = Budget(100)

    def fail() -> None:
        with budget.hold() as hold:
            hold.resize(60)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert budget.taken_bytes == 0
