"""A body takes room in the memory budget and a permit to read on while it comes in, and gives both back."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from tests.worker.conftest import trusting
from worker.score.decoding.budget import Budget
from worker.score.fetch import CHUNK_BYTES, HELD_AHEAD, LARGE_AT_A_TIME


class Watched:
    """A part of the budget that writes down what is taken of it."""

    def __init__(self) -> None:
        self.taken: list[int] = []

    def resize(self, size_bytes: int, wait_s: float = 0.0) -> None:
        self.taken.append(size_bytes)


@pytest.mark.parametrize("size", [1, CHUNK_BYTES, 3 * CHUNK_BYTES + 10])
def test_a_body_has_its_room_before_it_is_there_and_no_more_in_the_end(serve: Any, size: int) -> None:
    server = serve(lambda request: request.reply(200, bytes(size)))
    hold: Any = Watched()
    assert len(trusting(server).fetch(server.url, hold)) == size
    *coming, there = hold.taken
    assert there == size
    assert coming == sorted(set(coming))
    # Room is taken ahead, in steps: what comes in never exceeds it.
    assert coming[0] > HELD_AHEAD
    assert size <= coming[-1] <= size + HELD_AHEAD
    assert len(coming) <= 1 + size // HELD_AHEAD


def test_what_a_fetch_took_is_given_back_however_it_ends(serve: Any) -> None:
    server = serve(lambda request: request.reply(200, bytes(CHUNK_BYTES), content_length=str(3 * CHUNK_BYTES)))
    budget = Budget(10 * CHUNK_BYTES)
    with pytest.raises(Exception, match="broke off"), budget.hold() as hold:
        trusting(server).fetch(server.url, hold)
    assert budget.taken_bytes == 0


def test_a_permit_to_read_on_is_given_back_as_often_as_it_was_taken(serve: Any) -> None:
    server = serve(lambda request: request.reply(200, bytes(4 * CHUNK_BYTES)))
    fetcher = trusting(server)
    # A bounded one raises if it is released too often.
    fetcher._permits = permits = threading.BoundedSemaphore(LARGE_AT_A_TIME)
    for _ in range(LARGE_AT_A_TIME + 1):
        assert len(fetcher.fetch(server.url)) == 4 * CHUNK_BYTES
    assert all(permits.acquire(blocking=False) for _ in range(LARGE_AT_A_TIME))
