from __future__ import annotations

from typing import cast

import pytest

from m3agiqa.images import open_picture
from m3agiqa.jobs import Job, Scores
from m3agiqa.scorer import FakeScorer
from tests.support import png
from worker.cache import ScoreCache
from worker.store import Store

JOB = Job(open_picture(png()), "a cat")


class Shelf:
    """What of a store a cache needs."""

    def __init__(self) -> None:
        self.kept: dict[str, str] = {}

    def cached_scores(self, key: str) -> str | None:
        return self.kept.get(key)

    def cache_scores(self, key: str, scores: str) -> None:
        self.kept[key] = scores


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


def cache(shelf: Shelf, fingerprint: str = "model") -> ScoreCache:
    return ScoreCache(cast("Store", shelf), fingerprint)


def test_scores_come_back_for_the_same_picture_prompt_and_model_only(shelf: Shelf) -> None:
    # given
    [scores] = FakeScorer().score([JOB])
    assert isinstance(scores, Scores)
    cache(shelf).put(JOB, scores)
    # then
    found = cache(shelf).get(JOB)
    assert found is not None
    assert found.aspects == scores.aspects
    assert cache(shelf).get(Job(JOB.picture, "a dog")) is None
    assert cache(shelf, "another").get(JOB) is None


@pytest.mark.parametrize("kept", ['{"quality": {"score": 1}}', '{"beauty": {}}', "[]", "no json"])
def test_an_entry_of_another_shape_is_none(shelf: Shelf, kept: str) -> None:
    [scores] = FakeScorer().score([JOB])
    assert isinstance(scores, Scores)
    cache(shelf).put(JOB, scores)
    shelf.kept = dict.fromkeys(shelf.kept, kept)

    assert cache(shelf).get(JOB) is None
