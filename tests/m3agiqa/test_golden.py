from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from m3agiqa.cli import main
from m3agiqa.contract import Aspect, AspectScore, Failure, ModelInfo, Rating
from m3agiqa.errors import ConfigError, GoldenMismatch, ScoringError
from m3agiqa.golden import TOLERANCE, Golden, GoldenScore, check, jobs
from m3agiqa.jobs import Job, Scores
from m3agiqa.profile import ModelProfile
from m3agiqa.scorer import FakeScorer, Scorer

INFO = FakeScorer().info
WRITTEN = "a wall with blotches, sharp"
#: Points of the scale. Another CPU moves a float32 score by some millionths, and what is wrong with a model by more.
ROUNDING = 1e-3


class Model:
    """Scores like a model whose numbers move with the batch, the description, and whatever a test moves them by."""

    def __init__(self, *, in_batch: float = 0.0, by: float = 0.0, writes: str = WRITTEN) -> None:
        self.in_batch, self.by, self.writes = in_batch, by, writes
        self.batches: list[int] = []

    def __call__(self, jobs: Sequence[Job]) -> list[Scores | Failure]:
        self.batches.append(len(jobs))
        return [self._score(job, len(jobs)) for job in jobs]

    def _score(self, job: Job, batch: int) -> Scores:
        described = job.descriptions.get(Aspect.QUALITY, self.writes)
        score = 1 + len(described) % 7 / 7 + job.image.info.width / 1000 + self.by + self.in_batch * (batch > 1)
        return Scores(
            {
                Aspect.QUALITY: AspectScore(
                    score=score, rating=Rating.FAIR, description=described, slices=0, cut_tokens=0
                )
            }
        )


def of_weights(commit: str) -> ModelInfo:
    return INFO.model_copy(update={"profile": "lab", "revisions": {"base": commit, "head.quality": "x"}})


def kept(model: Model | None = None) -> Golden:
    return Golden.from_model(model or Model(), of_weights("1"))


@pytest.fixture(scope="module")
def mini() -> Scorer:
    return Scorer.load("mini", "cpu", max_batch=2)


@pytest.fixture(scope="module")
def bundled() -> Golden:
    golden = Golden.load(ModelProfile.load("mini").golden)
    assert golden is not None
    return golden


def described(golden: Golden) -> dict[str, dict[Aspect, str]]:
    return {
        name: {aspect: value.description for aspect, value in values.items()}
        for name, values in golden.pictures.items()
    }


def assert_scores_are_kept(mini: Scorer, golden: Golden) -> None:
    """Each image is scored with the description that is kept: where a search goes elsewhere is the check's matter."""
    known = jobs()
    assert golden.pictures.keys() == known.keys()
    for name, descriptions in described(golden).items():
        [outcome] = mini.score([replace(known[name], descriptions=descriptions)])
        assert isinstance(outcome, Scores)
        assert {aspect: scored.score for aspect, scored in outcome.aspects.items()} == pytest.approx(
            {aspect: value.score for aspect, value in golden.pictures[name].items()}, abs=ROUNDING
        ), name


def test_the_bundled_profiles_values_are_what_it_gives(mini: Scorer, bundled: Golden) -> None:
    assert bundled.revisions == mini.info.revisions, "renew cfg/models/golden/mini.yaml by `m3agiqa golden mini`"
    assert_scores_are_kept(mini, bundled)


def test_the_bundled_values_tell_images_and_aspects_apart(bundled: Golden) -> None:
    scores = [value.score for values in bundled.pictures.values() for value in values.values()]
    assert max(scores) - min(scores) > 10 * TOLERANCE
    assert all(0 < score < 5 for score in scores)  # what is clamped hides how far it moved


def test_the_bundled_model_passes_by_its_own_values(mini: Scorer, bundled: Golden) -> None:
    found = check(mini.score, mini.info, bundled, max_batch=4)
    assert len(found) == 3
    assert re.fullmatch(r"[1-9] of 9 descriptions begin as they did", found[-1])


def test_a_model_without_kept_values_is_held_against_itself() -> None:
    model = Model(in_batch=TOLERANCE / 2)
    found = check(model, of_weights("1"), None, max_batch=5)
    assert "no golden values are kept for lab" in found[-1]
    assert max(model.batches) == 5
    with pytest.raises(
        GoldenMismatch, match=r"quality of the golden image 'square' is .* in a batch of 5 and .* alone"
    ):
        check(Model(in_batch=2 * TOLERANCE), of_weights("1"), None, max_batch=5)


@pytest.mark.parametrize("max_batch", [1, 2, 3, 7])
def test_every_golden_image_is_in_a_batch_however_small(max_batch: int) -> None:
    model = Model()
    check(model, of_weights("1"), None, max_batch=max_batch)
    assert max(model.batches) == max(max_batch, len(jobs()))


def test_a_profile_may_accept_more() -> None:
    model = Model(by=3 * TOLERANCE, in_batch=2 * TOLERANCE)

    check(model, of_weights("1"), kept(), max_batch=2, tolerance=6 * TOLERANCE)

    with pytest.raises(GoldenMismatch, match=f"more than {TOLERANCE} apart"):
        check(model, of_weights("1"), kept(), max_batch=2)


def test_scores_that_moved_are_refused_with_what_was_expected() -> None:
    check(Model(by=TOLERANCE / 2), of_weights("1"), kept(), max_batch=2)
    with pytest.raises(GoldenMismatch) as refused:
        check(Model(by=3 * TOLERANCE), of_weights("1"), kept(), max_batch=2)
    expected = kept().pictures["square"][Aspect.QUALITY].score
    for said in (
        f"{expected:.4f}",
        f"{expected + 3 * TOLERANCE:.4f}",
        "quality",
        "'square'",
        "0.02",
        "m3agiqa golden lab",
    ):
        assert said in str(refused.value)


def test_scores_are_compared_for_the_description_that_is_kept() -> None:
    # A search that went elsewhere behind the description's beginning writes another one, and scores another.
    check(Model(writes=WRITTEN + ", and a frame"), of_weights("1"), kept(), max_batch=2)
    with pytest.raises(GoldenMismatch, match="none of 3 descriptions"):
        check(Model(writes="\ufffd" * 40), of_weights("1"), kept(), max_batch=2)


def test_values_of_other_weights_or_images_are_refused() -> None:
    with pytest.raises(GoldenMismatch, match=r"other weights \(base\); .*m3agiqa golden lab"):
        check(Model(), of_weights("2"), kept(), max_batch=2)
    fewer = kept().model_copy(update={"pictures": {"square": kept().pictures["square"]}})
    with pytest.raises(GoldenMismatch, match="other images or aspects"):
        check(Model(), of_weights("1"), fewer, max_batch=2)


def test_a_image_that_cannot_be_scored_is_said() -> None:
    failure = Failure(code="score_not_finite", message="the head returned nan", retryable=False)
    with pytest.raises(ScoringError, match="golden image 'square': score_not_finite: the head returned nan"):
        check(lambda jobs: [failure] * len(jobs), INFO, None, max_batch=2)
    with pytest.raises(ScoringError, match="the head returned nan"):
        check(lambda jobs: [Scores({}, {Aspect.QUALITY: failure})] * len(jobs), INFO, None, max_batch=2)


def test_a_file_gives_back_what_was_written_and_a_broken_one_is_said(tmp_path: Path) -> None:
    path = tmp_path / "lab.yaml"
    odd = GoldenScore(score=1.5, description="\x01 \ufffd\"'\n  \u0480:\t\U0001f600 ")
    golden = Golden(revisions={"base": "1"}, pictures={"square": {Aspect.QUALITY: odd}})
    assert Golden.load(path) is None
    path.write_text(golden.text(), encoding="utf-8")
    assert Golden.load(path) == golden
    path.write_text("pictures: {}\n")
    with pytest.raises(ConfigError, match="revisions"):
        Golden.load(path)


def test_the_command_writes_beside_the_profile(
    mini: Scorer, bundled: Golden, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Given a profile of the bundled weights, elsewhere
    text = ModelProfile.load("mini").golden.parent.with_name("mini.yaml").read_text(encoding="utf-8")
    weights = Path(main.__code__.co_filename).parents[1] / "mini"
    profile = tmp_path / "lab.yaml"
    profile.write_text(text.replace("../../m3agiqa/mini", str(weights)).replace("name: mini", "name: lab"))
    # When its values are kept
    assert main(["golden", str(profile), "--device", "cpu"]) == 0
    # Then they are what the bundled profile gives on this machine, and the command says where
    written = tmp_path / "golden" / "lab.yaml"
    assert str(written) in capsys.readouterr().out
    golden = Golden.load(written)
    assert golden is not None
    assert golden.revisions == bundled.revisions
    assert described(golden) == described(Golden.from_model(mini.score, mini.info))
    assert_scores_are_kept(mini, golden)
