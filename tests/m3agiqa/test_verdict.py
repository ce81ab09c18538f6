"""Putting verdicts together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import FrozenInstanceError
from datetime import UTC, datetime
from itertools import product

import pytest

from m3agiqa.contract import (
    VERSION,
    Aspect,
    AspectScore,
    Decision,
    Failure,
    ImageInfo,
    ModelInfo,
    Rating,
    Redecided,
    ScoreRequest,
    ShadowDecision,
    Verdict,
)
from m3agiqa.jobs import Scores
from m3agiqa.policy import Policy, Thresholds
from m3agiqa.verdict import LocalRequest, assemble, decided_by, redecided, with_shadow

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


# --- anew from the scores of a verdict ---------------------------------------------------------------------------

STRICT = Policy(name="strict", version=1, aspects={QUALITY: Thresholds(reject_below=4.5, review_below=4.5)})
WHOLE = Failure(code="fetch_refused", message="404", retryable=False)


def outcomes() -> Iterator[tuple[Scores | Failure, list[Aspect]]]:
    """Every way in which scoring may end."""
    yield WHOLE, list(Aspect)
    for scored in product([None, 0.5, 1.7, 2.2, 5.0], repeat=2):
        both = dict(zip((QUALITY, CORRESPONDENCE), scored, strict=True))
        found = {aspect: score(value) for aspect, value in both.items() if value is not None}
        yield Scores(found, {aspect: FAILURE for aspect, value in both.items() if value is None}), list(both)
    yield Scores({AUTHENTICITY: score(1)}), [AUTHENTICITY]


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("by", ["default", "observe", "strict", "lenient", "sampled"])
def test_a_verdict_is_decided_anew_as_it_would_have_been(policy: Policy, by: str, trained: bool) -> None:
    lenient = {"on_missing": Decision.ACCEPT, "on_failure": Decision.ACCEPT}
    policies = {
        "default": policy,
        "observe": Policy.load("observe"),
        "strict": STRICT,
        "lenient": STRICT.model_copy(update=lenient),
        "sampled": policy.model_copy(update={"sample_review": 1.0, **lenient}),
    }
    for outcome, wanted in outcomes():
        # given verdicts of the same outcome by two policies
        request = LocalRequest()
        before, direct = (
            assemble(request, outcome, wanted, policy=each, model=model(trained=trained))
            for each in (policy, policies[by])
        )
        # when the first is decided anew, after it went over the wire
        at = datetime.now(UTC)
        anew = redecided(Verdict.model_validate_json(before.model_dump_json()), policies[by], at)
        # then it says what the other does, and what held before
        assert (anew.decision, set(anew.reasons), anew.policy) == (direct.decision, set(direct.reasons), direct.policy)
        assert anew.redecided == Redecided(decision=before.decision, policy=before.policy, at=at)
        assert (anew.type, anew.version) == ("verdict.redecided", VERSION)
        same = {"type", "decision", "reasons", "policy", "redecided"}
        assert anew.model_dump(exclude=same) == before.model_dump(exclude=same)


def test_a_verdict_of_version_1_1_that_failed_in_part_lacks_what_its_model_has(policy: Policy) -> None:
    # given a verdict of a model of two aspects that does not say which failed
    info = model().model_copy(update={"heads": {QUALITY: "q", CORRESPONDENCE: "c"}})
    made = assemble(
        LocalRequest(), Scores({QUALITY: score(4)}, {CORRESPONDENCE: FAILURE}), [], policy=policy, model=info
    )
    older = made.model_copy(update={"version": "1.1", "failures": {}})
    # then the other is taken for the one that failed
    assert decided_by(older, policy) == (Decision.REVIEW, ("correspondence has no score",))
    assert decided_by(older.model_copy(update={"aspects": {}}), policy)[1] == ("not scored: score_not_finite",)


def test_a_verdict_tells_what_a_policy_in_shadow_would_have_decided(policy: Policy) -> None:
    verdict = assemble(LocalRequest(), Scores({QUALITY: score(4)}), [QUALITY], policy=policy, model=model())
    shadowed = with_shadow(verdict, STRICT)
    assert (shadowed.decision, shadowed.policy) == (Decision.ACCEPT, policy.ref)
    assert shadowed.shadow == ShadowDecision(
        policy=STRICT.ref, decision=Decision.REJECT, reasons=("quality 4.00 < reject_below 4.50",)
    )
    # and not any more once it is decided anew
    assert redecided(shadowed, STRICT, datetime.now(UTC)).shadow is None
