"""Scores to decisions."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from m3agiqa import config
from m3agiqa.contract import Aspect, AspectScore, Decision, Failure, Rating
from m3agiqa.errors import ConfigError
from m3agiqa.policy import Policy, Thresholds

QUALITY, CORRESPONDENCE, AUTHENTICITY = Aspect
ACCEPT, REVIEW, REJECT = Decision

FAILURE = Failure(code="fetch_refused", message="404", retryable=False)
POLICY = Policy(
    name="strict",
    version=3,
    aspects={
        QUALITY: Thresholds(reject_below=1.5, review_below=2.5),
        CORRESPONDENCE: Thresholds(review_below=2),
    },
)


def scored(**scores: float) -> dict[Aspect, AspectScore]:
    return {
        Aspect(name): AspectScore(score=score, rating=Rating.of(score), description="", slices=0, cut_tokens=0)
        for name, score in scores.items()
    }


@pytest.mark.parametrize(
    ("scores", "decision", "reasons"),
    [
        ({"quality": 4.0}, ACCEPT, ()),
        ({"quality": 2.5}, ACCEPT, ()),
        ({"quality": 2.4999}, REVIEW, ("quality 2.4999 < review_below 2.50",)),
        ({"quality": 1.5}, REVIEW, ("quality 1.50 < review_below 2.50",)),
        ({"quality": 1.499}, REJECT, ("quality 1.499 < reject_below 1.50",)),
        ({"quality": 0.0}, REJECT, ("quality 0.00 < reject_below 1.50",)),
        ({"correspondence": 0.0}, REVIEW, ("correspondence 0.00 < review_below 2.00",)),
        (
            {"quality": 1.0, "correspondence": 1.0},
            REJECT,
            ("quality 1.00 < reject_below 1.50", "correspondence 1.00 < review_below 2.00"),
        ),
        ({"quality": 4.0, "authenticity": 0.0}, ACCEPT, ()),
    ],
)
def test_the_worst_aspect_decides_and_every_reason_is_named(
    scores: dict[str, float], decision: Decision, reasons: tuple[str, ...]
) -> None:
    assert POLICY.decide(scored(**scores), [Aspect(name) for name in scores]) == (decision, reasons)


def test_a_missing_aspect_is_reviewed() -> None:
    assert POLICY.decide(scored(quality=4), [QUALITY, CORRESPONDENCE]) == (REVIEW, ("correspondence has no score",))
    assert POLICY.decide(scored(quality=4), [QUALITY, AUTHENTICITY]) == (ACCEPT, ())
    lenient = POLICY.model_copy(update={"on_missing": ACCEPT})
    assert lenient.decide(scored(quality=4), [QUALITY, CORRESPONDENCE])[0] == ACCEPT


def test_a_low_score_rejects_although_another_aspect_is_missing() -> None:
    decision, reasons = POLICY.decide(scored(quality=1), [QUALITY, CORRESPONDENCE])
    assert decision == REJECT
    assert reasons == ("quality 1.00 < reject_below 1.50", "correspondence has no score")


def test_a_policy_that_judges_nothing_asked_for_is_reviewed() -> None:
    decision, reasons = POLICY.decide(scored(authenticity=5), [AUTHENTICITY])
    assert decision == REVIEW
    assert reasons == ("policy strict judges none of the aspects asked for",)


def test_a_failure_is_reviewed_once() -> None:
    assert POLICY.decide({}, [QUALITY, CORRESPONDENCE], FAILURE) == (REVIEW, ("not scored: fetch_refused",))
    lenient = POLICY.model_copy(update={"on_failure": ACCEPT})
    assert lenient.decide({}, [QUALITY], FAILURE) == (ACCEPT, ("not scored: fetch_refused",))


@pytest.mark.parametrize("field", ["on_failure", "on_missing"])
def test_a_failure_cannot_be_configured_to_reject(field: str) -> None:
    with pytest.raises(ValidationError):
        Policy.model_validate({"name": "x", "version": 1, "aspects": {"quality": {}}, field: "reject"})


@pytest.mark.parametrize(
    "thresholds",
    [{"reject_below": 3, "review_below": 2}, {"reject_below": 1}, {"review_below": 5.1}, {"accept_above": 1}],
)
def test_wrong_thresholds(thresholds: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Thresholds.model_validate(thresholds)


@given(st.dictionaries(st.sampled_from(Aspect), st.floats(0, 5)), st.lists(st.sampled_from(Aspect)), st.booleans())
def test_only_a_score_below_its_threshold_rejects(
    scores: dict[Aspect, float], wanted: list[Aspect], failed: bool
) -> None:
    decision, reasons = POLICY.decide(scored(**scores), wanted, FAILURE if failed else None)
    assert (decision == REJECT) == (QUALITY in wanted and scores.get(QUALITY, 5) < 1.5)
    assert decision == ACCEPT or reasons


@pytest.mark.parametrize("name", config.names("policies"))
def test_every_policy_that_ships_loads(name: str) -> None:
    policy = Policy.load(name)
    assert policy.name == name
    assert set(policy.aspects) == set(Aspect)
    assert policy.ref.model_dump() == {"name": name, "version": policy.version}


def test_observe_accepts_everything() -> None:
    policy = Policy.load("observe")
    worst = scored(quality=0, correspondence=0, authenticity=0)
    assert policy.decide(worst, list(Aspect)) == (ACCEPT, ())
    assert policy.decide({}, list(Aspect), FAILURE)[0] == ACCEPT


def test_a_wrong_file_is_told_its_field(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text("name: p\nversion: 0\naspects: {quality: {}}\n")
    with pytest.raises(ConfigError, match=r"p\.yaml: version: .*greater than or equal to 1"):
        Policy.load(str(file))
