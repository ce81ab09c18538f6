from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from m3agiqa.errors import Busy, FetchUnavailable
from m3agiqa.images import Picture, open_picture
from m3agiqa.policy import Policy
from m3agiqa.scorer import FakeScorer
from producers import ScoreRequest
from tests.support import PATIENCE_S, png
from worker import moderator
from worker.batcher import Batcher
from worker.moderator import Moderator
from worker.settings import Settings


class Outside:
    """What a moderator asks of a store, a cache and a fetcher."""

    def get(self, job: object) -> None:
        """Nothing is remembered."""

    def put(self, job: object, scores: object) -> None:
        """Nor kept."""

    def mark_scoring(self, lease: object) -> None:
        """Nobody looks."""

    def publish(self, verdict: object, deliveries: object) -> bool:
        return True

    def fetch(self, url: object) -> bytes:
        return png()


def handling(outside: Any, **settings: Any) -> Moderator:
    batcher = Batcher(FakeScorer(), max_batch=1, max_wait_s=0)
    return Moderator(Settings(**settings), outside, outside, outside, batcher, Policy.load("default"))


class Refusing(Outside):
    """Outside, where pictures cannot be had."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.put_off_s: list[float] = []

    def fetch(self, url: object) -> bytes:
        raise self.error

    def release(self, lease: object, *, delay_s: float, why: str) -> None:
        self.put_off_s.append(delay_s)

    def score_later(self, lease: object, request: object, *, retries: int, delay_s: float, why: str) -> None:
        self.put_off_s.append(delay_s)


def test_a_request_whose_picture_server_is_busy_is_put_off_at_any_attempt() -> None:
    outside = Refusing(Busy("its server has all threads that one may have", 2.5))
    moderator = handling(outside, score_retry_delays_s=())
    request = ScoreRequest(image_url="https://pictures.example/1.png", prompt="a wall")
    lease: Any = None
    assert moderator.handle(request, 1, lease) == "its server has all threads that one may have, again in 2.5 s"
    assert moderator.handle(request, 3, lease) == "its server has all threads that one may have, again in 2.5 s"
    assert outside.put_off_s == [2.5, 2.5]
    moderator.batcher.stop(PATIENCE_S)


def test_a_request_that_is_put_off_expires_all_the_same() -> None:
    outside = Refusing(Busy("its server has all threads that one may have", 2.5))
    moderator = handling(outside)
    expired = datetime.now(UTC) - timedelta(seconds=1)
    request = ScoreRequest(image_url="https://pictures.example/1.png", prompt="a wall", expires_at=expired)
    lease: Any = None
    assert moderator.handle(request, 1, lease) == "failed: review (expired)"
    assert outside.put_off_s == []
    moderator.batcher.stop(PATIENCE_S)


@pytest.mark.parametrize(("asked_for_s", "delay_s"), [(None, 5), (0.0, 5), (3.0, 5), (60.0, 60)])
def test_a_picture_server_that_asks_for_more_time_gets_it(asked_for_s: float | None, delay_s: float) -> None:
    outside = Refusing(FetchUnavailable("pictures.example answered 429", retry_after_s=asked_for_s))
    moderator = handling(outside, score_retry_delays_s=(5,))
    request = ScoreRequest(image_url="https://pictures.example/1.png", prompt="a wall")
    lease: Any = None
    assert moderator.handle(request, 1, lease).startswith("fetch_unavailable, again in")
    assert outside.put_off_s == [delay_s]
    moderator.batcher.stop(PATIENCE_S)


def test_who_opens_a_picture_holds_one_of_the_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    batcher = Batcher(FakeScorer(), max_batch=1, max_wait_s=0)
    outside: Any = Outside()
    handling = Moderator(Settings(), outside, outside, outside, batcher, Policy.load("default"))
    wanted: list[int] = []

    def opened(data: bytes, **options: Any) -> Picture:
        wanted.append(batcher.turns.wanted)
        return open_picture(data, **options)

    monkeypatch.setattr(moderator, "open_picture", opened)
    request = ScoreRequest(image_url="https://pictures.example/1.png", prompt="a wall")
    lease: Any = None

    assert handling.handle(request, 1, lease).startswith("scored")
    assert wanted == [1]
    assert batcher.turns.wanted == 0
    batcher.stop(PATIENCE_S)
