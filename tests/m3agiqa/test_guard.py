from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from PIL import Image

from m3agiqa.cli import main
from m3agiqa.contract import Aspect, AspectScore, Decision, Failure, Rating
from m3agiqa.files import read_job
from m3agiqa.guard import NEUTRAL, guarded
from m3agiqa.jobs import Job, Scores
from m3agiqa.policy import Policy, Thresholds

QUALITY, CORRESPONDENCE, AUTHENTICITY = Aspect
POLICY = Policy(name="p", version=1, aspects={QUALITY: Thresholds(review_below=2.5)}, prompt_guard=0.5)


def scores(found: Mapping[Aspect, float]) -> Scores:
    return Scores(
        {
            aspect: AspectScore(score=score, rating=Rating.from_score(score), description="", slices=0, cut_tokens=0)
            for aspect, score in found.items()
        }
    )


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "cat.png"
    Image.new("RGB", (8, 8), "red").save(path)
    return path


class Again:
    """Scores a second time, or fails."""

    def __init__(self, outcome: Scores | Failure) -> None:
        self.outcome = outcome
        self.asked: list[Job] = []

    def __call__(self, job: Job) -> Scores | Failure:
        self.asked.append(job)
        return self.outcome


def decided(outcome: Scores | Failure) -> tuple[Decision, tuple[str, ...]]:
    assert isinstance(outcome, Scores)
    return POLICY.decide(outcome.aspects, tuple(outcome.aspects), neutral=outcome.neutral)


@pytest.mark.parametrize(
    ("neutral", "decision", "reasons"),
    [
        ({QUALITY: 2.6, AUTHENTICITY: 3.0}, Decision.ACCEPT, ()),
        ({QUALITY: 2.4, AUTHENTICITY: 3.0}, Decision.REVIEW, ("quality falls by 0.60 under a neutral prompt",)),
        ({QUALITY: 5.0, AUTHENTICITY: 2.0}, Decision.REVIEW, ("authenticity falls by 1.00 under a neutral prompt",)),
    ],
)
def test_what_a_prompt_may_have_bought_goes_to_review(
    image: Path, neutral: dict[Aspect, float], decision: Decision, reasons: tuple[str, ...]
) -> None:
    # given an image that would be accepted
    first = scores({QUALITY: 3.0, CORRESPONDENCE: 4.0, AUTHENTICITY: 3.0})
    again = Again(scores(neutral))
    # when it is scored once more
    outcome = guarded(read_job(image, "a masterpiece", None), first, tuple(Aspect), POLICY, again)
    # then without its prompt, for what must not depend on it
    assert [(job.prompt, job.aspects) for job in again.asked] == [(NEUTRAL, (QUALITY, AUTHENTICITY))]
    assert decided(outcome) == (decision, reasons)


@pytest.mark.parametrize("found", [{QUALITY: 2.0}, {CORRESPONDENCE: 4.0}])
def test_what_would_not_be_accepted_is_scored_once(image: Path, found: dict[Aspect, float]) -> None:
    again = Again(scores({}))
    first = scores(found)
    assert guarded(read_job(image, "x", None), first, tuple(found), POLICY, again) is first
    assert again.asked == []


def test_without_a_guard_nothing_is_scored_twice(image: Path) -> None:
    again, first = Again(scores({})), scores({QUALITY: 3.0})
    policy = POLICY.model_copy(update={"prompt_guard": None})
    assert guarded(read_job(image, "x", None), first, (QUALITY,), policy, again) is first
    assert again.asked == []


def test_a_second_scoring_that_fails_for_now_is_a_failure_and_one_that_fails_for_good_a_review(image: Path) -> None:
    job, first = read_job(image, "x", None), scores({QUALITY: 3.0})
    passing, lasting = (Failure(code="x", message="x", retryable=retryable) for retryable in (True, False))
    assert guarded(job, first, (QUALITY,), POLICY, Again(passing), comes_again=True) == passing
    in_part = Scores({}, {QUALITY: passing})
    assert guarded(job, first, (QUALITY,), POLICY, Again(in_part), comes_again=True) == passing
    # and once nobody tries again, no good score is lost
    for again in (passing, lasting, in_part):
        assert decided(guarded(job, first, (QUALITY,), POLICY, Again(again))) == (
            Decision.REVIEW,
            ("quality was not scored under a neutral prompt",),
        )


def test_a_guard_is_in_the_digest_and_its_absence_is_not() -> None:
    without = POLICY.model_copy(update={"prompt_guard": None})
    assert POLICY.ref.digest != without.ref.digest
    assert without.ref.digest == Policy(name="p", version=1, aspects=POLICY.aspects).ref.digest


@pytest.fixture
def strict(tmp_path: Path) -> Path:
    """A policy that accepts every score, but none that depends on the prompt."""
    path = tmp_path / "strict.yaml"
    path.write_text("{name: strict, version: 1, aspects: {quality: {}}, prompt_guard: 0.000001}")
    return path


def test_the_commands_guard_as_the_worker_does(image: Path, strict: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # given a scorer whose scores hang on the prompt alone
    prompts = [f"number {number}" for number in range(8)]
    told = []
    for prompt in prompts:
        main(["score", str(image), "--prompt", prompt, "--model", "fake", "--policy", str(strict), "--json"])
        told.append(json.loads(capsys.readouterr().out))
    # then each prompt that raised quality or authenticity was noticed, and no other
    for verdict in told:
        rose = any(verdict["aspects"][aspect]["score"] > score for aspect, score in verdict["neutral"].items())
        assert verdict["neutral"].keys() == {"quality", "authenticity"}
        assert verdict["decision"] == ("review" if rose else "accept")
    assert len({verdict["decision"] for verdict in told}) == 2
    # and the same for a table of them
    table, out = image.parent / "table.csv", image.parent / "scores.json"
    table.write_text("image_path,prompt\n" + "".join(f"cat.png,{prompt}\n" for prompt in prompts))
    main(["batch", str(table), "--aspect", "all", "--model", "fake", "--policy", str(strict), "--output", str(out)])
    rows = json.loads(out.read_text())[::3]
    assert [row["decision"] for row in rows] == [verdict["decision"] for verdict in told]
