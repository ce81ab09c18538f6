from __future__ import annotations

import pytest
from prometheus_client import generate_latest
from redis import Redis

from m3agiqa.contract import Aspect
from m3agiqa.images import open_image
from m3agiqa.jobs import Job, Scores
from m3agiqa.queue.ledger import Ledger
from m3agiqa.scorer import FakeScorer
from tests.support import png, samples
from worker.ops.metrics import Metrics
from worker.score.cache import ScoreCache, fingerprint

JOB = Job(open_image(png()), "a cat")


def cache(ledger: Ledger, fingerprint: str = "model", *, ttl_s: int = 60) -> ScoreCache:
    return ScoreCache(ledger.connection, fingerprint, ttl_s=ttl_s)


@pytest.fixture
def scores() -> Scores:
    [scores] = FakeScorer().score([JOB])
    assert isinstance(scores, Scores)
    return scores


def test_scores_come_back_for_the_same_image_prompt_aspects_and_model_only(ledger: Ledger, scores: Scores) -> None:
    # given
    cache(ledger).put(JOB, scores)
    # then
    found = cache(ledger).get(JOB)
    assert found is not None
    assert found.aspects == scores.aspects
    assert cache(ledger).get(Job(JOB.image, "a dog")) is None
    assert cache(ledger).get(Job(open_image(png(1)), JOB.prompt)) is None
    assert cache(ledger).get(Job(JOB.image, JOB.prompt, (Aspect.QUALITY,))) is None
    assert cache(ledger, "another").get(JOB) is None


def test_aspects_are_the_same_in_any_order(ledger: Ledger, scores: Scores) -> None:
    one, other = (Aspect.QUALITY, Aspect.CORRESPONDENCE), (Aspect.CORRESPONDENCE, Aspect.QUALITY)
    cache(ledger).put(Job(JOB.image, JOB.prompt, one), scores)
    assert cache(ledger).get(Job(JOB.image, JOB.prompt, other)) is not None


def test_each_look_is_counted_by_what_was_found(ledger: Ledger, scores: Scores) -> None:
    # given caches of which one remembers nothing
    metrics = Metrics(["score"], 8, lambda: 0)
    keeping, forgetful = (ScoreCache(ledger.connection, "model", ttl_s=ttl_s, metrics=metrics) for ttl_s in (60, 0))
    # when the same image comes three times
    keeping.get(JOB)
    keeping.put(JOB, scores)
    for cache in (keeping, keeping, forgetful):
        cache.get(JOB)
    # then what cannot remember counts for nothing
    told = samples(generate_latest(metrics.registry).decode())
    assert (told["m3agiqa_score_cache_hits_total"], told["m3agiqa_score_cache_misses_total"]) == (2, 1)


def test_scores_are_remembered_for_a_time(ledger: Ledger, redis: Redis, scores: Scores) -> None:
    cache(ledger, ttl_s=60).put(JOB, scores)
    [key] = redis.keys("m3agiqa:scores:*")
    assert 0 < redis.ttl(key) <= 60


def test_without_a_time_nothing_is_kept_nor_found(ledger: Ledger, redis: Redis, scores: Scores) -> None:
    cache(ledger, ttl_s=0).put(JOB, scores)
    assert redis.keys("*") == []
    cache(ledger, ttl_s=60).put(JOB, scores)
    assert cache(ledger, ttl_s=0).get(JOB) is None


@pytest.mark.parametrize("kept", ['{"quality": {"score": 1}}', '{"beauty": {}}', "[]", "no json"])
def test_an_entry_of_another_shape_is_none(ledger: Ledger, redis: Redis, scores: Scores, kept: str) -> None:
    cache(ledger).put(JOB, scores)
    [key] = redis.keys("m3agiqa:scores:*")
    redis.set(key, kept)
    assert cache(ledger).get(JOB) is None


def test_a_fingerprint_is_of_the_model_and_of_its_profile() -> None:
    model = FakeScorer().info
    retrained = model.model_copy(update={"revisions": {"base": "another"}})
    assert len({fingerprint(model, "a"), fingerprint(model, "b"), fingerprint(retrained, "a")}) == 3
    assert fingerprint(model, "a") == fingerprint(model.model_copy(), "a")
