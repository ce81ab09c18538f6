"""Putting verdicts together."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from datetime import UTC, datetime

import pytest

from m3agiqa.contract import (
    Aspect,
    AspectScore,
    Decision,
    Failure,
    ImageInfo,
    ModelInfo,
    Rating,
    ScoreRequest,
    Verdict,
)
from m3agiqa.jobs import Scores
from m3agiqa.policy import Policy
from m3agiqa.verdict import LocalRequest, assemble

QUALITY, CORRESPONDENCE, AUTHENTICITY = Aspect
FAILURE = Failure(code="score_not_finite", message="NaN", retryable=False)
IMAGE = ImageInfo(sha256="0" * 64, width=1, height=1, format="PNG")


@pytest.fixture
def policy() -> Policy:
    return Policy.load("default")


def model(*, trained: bool = True) -> ModelInfo:
    return ModelInfo(
        profile="m", base="b", adapters={}, heads={}, revisions={}, dtype="float32", engine="e", trained=trained
    )


def score(value: float) -> AspectScore:
    return AspectScore(score=value, rating=Rating.from_score(value), description="why", slices=2, cut_tokens=0)


def test_a_scored_verdict_repeats_its_request(policy: Policy) -> None:
    request = ScoreRequest(image_url="https://x/y.png", prompt="secret words", request_id="r-1", metadata={"k": [1]})
    outcome = Scores({QUALITY: score(4)}, timings_ms={"describe": 1.23456}, batch=7)

    verdict = assemble(
        request, outcome, [QUALITY], policy=policy, model=model(), image=IMAGE, timings_ms={"fetch": 2}, attempt=3
    )

    assert (verdict.request_id, verdict.submitted_at) == ("r-1", request.submitted_at)
    assert verdict.metadata == {"k": [1]}
    assert (verdict.status, verdict.decision, verdict.reasons) == ("scored", Decision.ACCEPT, ())
    assert verdict.timings_ms == {"fetch": 2, "describe": 1.235}
    assert (verdict.batch, verdict.attempt, verdict.error) == (7, 3, None)
    assert (verdict.image, verdict.model, verdict.policy) == (IMAGE, model(), policy.ref)
    assert request.submitted_at <= verdict.scored_at <= datetime.now(UTC)
    assert "secret words" not in verdict.model_dump_json()
    assert Verdict.model_validate_json(verdict.model_dump_json()) == verdict


def test_a_failure_of_the_whole_has_no_scores_and_is_reviewed(policy: Policy) -> None:
    verdict = assemble(LocalRequest(), FAILURE, list(Aspect), policy=policy, model=None)
    assert (verdict.status, verdict.decision) == ("failed", Decision.REVIEW)
    assert verdict.reasons == ("not scored: score_not_finite",)
    assert (verdict.aspects, verdict.error, verdict.model) == ({}, FAILURE, None)
    assert (verdict.batch, verdict.attempt, verdict.timings_ms) == (None, 1, {})


def test_a_failed_aspect_fails_the_verdict_and_keeps_the_others(policy: Policy) -> None:
    outcome = Scores({QUALITY: score(4)}, {CORRESPONDENCE: FAILURE})
    verdict = assemble(LocalRequest(), outcome, [QUALITY, CORRESPONDENCE], policy=policy, model=model())
    assert (verdict.status, verdict.error) == ("failed", FAILURE)
    assert list(verdict.aspects) == [QUALITY]
    assert (verdict.decision, verdict.reasons) == (Decision.REVIEW, ("correspondence has no score",))


def test_an_untrained_model_is_named_as_one(policy: Policy) -> None:
    untrained = "the model is untrained: its scores mean nothing"
    verdict = assemble(
        LocalRequest(), Scores({QUALITY: score(5)}), [QUALITY], policy=policy, model=model(trained=False)
    )
    assert verdict.reasons == (untrained,)
    low = assemble(LocalRequest(), Scores({QUALITY: score(2)}), [QUALITY], policy=policy, model=model(trained=False))
    assert low.reasons == ("quality 2.00 < review_below 2.50", untrained)
    failed = assemble(LocalRequest(), FAILURE, [QUALITY], policy=policy, model=model(trained=False))
    assert untrained not in failed.reasons


def test_local_requests_are_told_apart_and_stay_as_they_are() -> None:
    one, two = LocalRequest(), LocalRequest()
    assert one.request_id != two.request_id
    with pytest.raises(FrozenInstanceError):
        one.request_id = two.request_id  # type: ignore[misc]
