from __future__ import annotations

from typing import Any

import pytest

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
