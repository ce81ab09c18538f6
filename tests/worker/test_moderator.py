from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from m3agiqa.contract import ImageInfo
from m3agiqa.cutting import CutPicture
from m3agiqa.errors import Busy, FetchUnavailable, ImageTooCostly, M3AGIQAError
from m3agiqa.policy import Policy
from m3agiqa.scorer import FakeScorer
from producers import ScoreRequest
from tests.support import PATIENCE_S
from worker.batcher import Batcher
from worker.decoding.budget import Budget, Hold
from worker.moderator import Moderator
from worker.settings import Settings

REQUEST = ScoreRequest(image_url="https://pictures.example/1.png", prompt="a wall")
INFO = ImageInfo(sha256="0" * 64, width=10, height=10, format="PNG")


class Outside:
    """What a moderator asks of a store, a cache, a fetcher and decoders; its pictures take 5 bytes fetched, 300 cut."""

    def __init__(self) -> None:
        self.batcher = Batcher(FakeScorer(), max_batch=1, max_wait_s=0)
        self.budget = Budget(1000)
        self.takes_long = False
        self.failure: M3AGIQAError | None = None
        self.asked: list[str] = []
        self.held: list[int] = []
        self.released: list[tuple[float, str]] = []
        self.verdicts: list[Any] = []

    def get(self, job: object) -> None:
        self.held.append(self.budget.taken_bytes)

    def put(self, job: object, scores: object) -> None:
        """Nothing is remembered."""

    def mark_scoring(self, lease: object) -> None:
        """Nobody looks."""

    def publish(self, verdict: Any, deliveries: object, letter: object) -> bool:
        self.verdicts.append(verdict)
        return True

    def release(self, lease: object, *, delay_s: float, why: str) -> None:
        self.released.append((delay_s, why))

    def fetch(self, url: object, hold: Hold) -> bytes:
        hold.resize(5)
        return b"bytes"

    def quick(self, data: bytes) -> CutPicture | None:
        self.asked.append("quick")
        if self.failure is not None:
            raise self.failure
        return None if self.takes_long else CutPicture(INFO, {}, bytes(300), (10, 10))

    def patient(self, data: bytes, hold: Hold) -> CutPicture:
        self.asked.append("patient")
        hold.resize(900)
        return CutPicture(INFO, {}, bytes(300), (10, 10))

    def score_later(self, lease: object, request: object, *, retries: int, delay_s: float, why: str) -> None:
        self.released.append((delay_s, why))

    def handle(self, request: ScoreRequest = REQUEST, attempt: int = 1, **settings: Any) -> str:
        outside: Any = self
        policy = Policy.load("default")
        moderator = Moderator(
            Settings(**settings), outside, outside, outside, outside, self.budget, self.batcher, policy
        )
        lease: Any = None
        return moderator.handle(request, attempt, lease)


@pytest.fixture
def outside() -> Iterator[Outside]:
    outside = Outside()
    yield outside
    outside.batcher.stop(PATIENCE_S)


def test_a_picture_that_takes_long_goes_to_the_patient_decoders(outside: Outside) -> None:
    assert outside.handle().startswith("scored")
    assert outside.asked == ["quick"]
    outside.takes_long = True
    assert outside.handle().startswith("scored")
    assert outside.asked == ["quick", "quick", "patient"]


@pytest.mark.parametrize("takes_long", [False, True])
def test_while_it_is_scored_a_picture_takes_its_slices_room_and_then_none(outside: Outside, takes_long: bool) -> None:
    outside.takes_long = takes_long
    outside.handle()
    assert outside.held == [300]
    assert outside.budget.taken_bytes == 0


def test_a_picture_without_room_or_turn_is_put_off_and_nobody_is_told(outside: Outside) -> None:
    outside.failure = Busy("others come first", 2.5)
    assert outside.handle() == "others come first, again in 2.5 s"
    assert outside.released == [(2.5, "others come first")]
    assert outside.verdicts == []
    assert outside.budget.taken_bytes == 0


def test_a_picture_that_is_too_costly_is_answered_at_once(outside: Outside) -> None:
    outside.failure = ImageTooCostly("12,001 scans")
    assert outside.handle() == "failed: review (image_too_costly)"
    [verdict] = outside.verdicts
    assert not verdict.error.retryable


def test_want_of_memory_is_named_and_tried_again(outside: Outside, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Outside, "quick", lambda self, data: bytearray(1 << 62))
    assert outside.handle().startswith("out_of_memory, again in")
    assert [why for _, why in outside.released] == ["out_of_memory"]


def test_a_request_whose_picture_server_is_busy_is_put_off_at_any_attempt(outside: Outside) -> None:
    outside.failure = Busy("its server has all threads that one may have", 2.5)
    for attempt in (1, 3):
        said = outside.handle(REQUEST, attempt, score_retry_delays_s=())
        assert said == "its server has all threads that one may have, again in 2.5 s"
    assert [delay_s for delay_s, _ in outside.released] == [2.5, 2.5]


def test_a_request_that_is_put_off_expires_all_the_same(outside: Outside) -> None:
    outside.failure = Busy("its server has all threads that one may have", 2.5)
    expired = REQUEST.model_copy(update={"expires_at": datetime.now(UTC) - timedelta(seconds=1)})
    assert outside.handle(expired) == "failed: review (expired)"
    assert outside.released == []


@pytest.mark.parametrize(("asked_for_s", "delay_s"), [(None, 5), (0.0, 5), (3.0, 5), (60.0, 60)])
def test_a_picture_server_that_asks_for_more_time_gets_it(
    outside: Outside, asked_for_s: float | None, delay_s: float
) -> None:
    outside.failure = FetchUnavailable("pictures.example answered 429", retry_after_s=asked_for_s)
    assert outside.handle(score_retry_delays_s=(5,)).startswith("fetch_unavailable, again in")
    assert outside.released == [(delay_s, "fetch_unavailable")]
