from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Sequence

import pytest
from PIL import Image

from m3agiqa.contract import Aspect, AspectScore, Failure, Rating
from m3agiqa.errors import ConfigError, DeviceLost, M3AGIQAError, ScoringOutOfMemory
from m3agiqa.images import DecodedImage, open_image
from m3agiqa.jobs import Job, Scores
from m3agiqa.profile import ModelProfile
from m3agiqa.scorer import FakeScorer, Scorer, load_scorer


def image(color: str, size: tuple[int, int] = (96, 64)) -> DecodedImage:
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, "PNG")
    return open_image(buffer.getvalue())


@pytest.fixture(scope="module")
def mini() -> Scorer:
    return Scorer.load("mini", "cpu")


def test_bundled_model_scores_every_aspect_and_says_that_it_is_trained(mini: Scorer) -> None:
    outcome = mini.score([Job(image("teal"), "a teal wall")])[0]

    assert isinstance(outcome, Scores)
    assert set(outcome.aspects) == set(Aspect)
    for score in outcome.aspects.values():
        assert 0 <= score.score <= 5
        assert score.rating == Rating.from_score(score.score)
        assert score.description
    assert mini.info.trained
    assert mini.info.dtype == "float32"
    assert set(mini.info.revisions) >= {"base"}
    assert set(outcome.timings_ms) == {"encode", "prefill", "decode", "rate"}


def test_sixteen_images_with_a_bad_one_give_fifteen_scores_and_a_failure(mini: Scorer) -> None:
    jobs = [Job(image("teal", (60 + 20 * index, 80)), "x" if index != 11 else "word " * 3000) for index in range(16)]

    outcomes = mini.score(jobs)

    assert len(outcomes) == 16
    scored = [index for index, outcome in enumerate(outcomes) if isinstance(outcome, Scores) and outcome.aspects]
    assert scored == [index for index in range(16) if index != 11]
    bad = outcomes[11]
    assert isinstance(bad, Scores)
    assert {failure.code for failure in bad.failures.values()} == {"prompt_too_long"}


def test_no_such_profile_or_device_says_what_there_is() -> None:
    with pytest.raises(ConfigError, match="mini"):
        load_scorer("nonsense")
    with pytest.raises(ConfigError, match="cpu, cuda"):
        load_scorer("mini", "quantum")
    with pytest.raises(ConfigError, match="torch sees"):
        load_scorer("mini", "cuda:99")


class StubEngine:
    """Fails whenever a batch holds an image of a failing colour, as a model that breaks on it would."""

    aspects = tuple(Aspect)
    dtype = name = "none"

    def __init__(self, failing: dict[str, Exception]) -> None:
        self.failing = {image(color).info.sha256: error for color, error in failing.items()}
        self.sizes: list[int] = []

    def run(self, jobs: Sequence[Job]) -> list[Scores]:
        self.sizes.append(len(jobs))
        for job in jobs:
            if job.image.info.sha256 in self.failing:
                raise self.failing[job.image.info.sha256]
        score = AspectScore(score=3, rating=Rating.GOOD, description="x", slices=0, cut_tokens=0)
        return [Scores({Aspect.QUALITY: score}) for _ in jobs]

    def typed(self, error: Exception) -> M3AGIQAError | Exception:
        return ScoringOutOfMemory("no room") if isinstance(error, MemoryError) else error


def test_an_image_the_model_breaks_on_fails_alone_and_order_is_kept(mini: Scorer) -> None:
    engine = StubEngine({"red": MemoryError(), "blue": RuntimeError("secret prompt")})
    scorer = Scorer(engine, mini.info, max_batch=16)  # type: ignore[arg-type]
    colors = ["teal"] * 16
    colors[3], colors[12] = "red", "blue"

    outcomes = scorer.score([Job(image(color), "x") for color in colors])

    failures = {index: outcome for index, outcome in enumerate(outcomes) if isinstance(outcome, Failure)}
    assert {index: failure.code for index, failure in failures.items()} == {
        3: "scoring_out_of_memory",
        12: "internal_error",
    }
    assert "secret" not in failures[12].message
    assert len(outcomes) == 16


def test_a_lost_device_is_not_any_images_fault(mini: Scorer) -> None:
    engine = StubEngine({"red": DeviceLost("cuda:0 failed")})
    scorer = Scorer(engine, mini.info, max_batch=4)  # type: ignore[arg-type]

    with pytest.raises(DeviceLost, match="cuda:0"):
        scorer.score([Job(image(color), "x") for color in ("teal", "red", "teal")])

    assert engine.sizes == [3]


def test_batches_are_no_larger_than_asked(mini: Scorer) -> None:
    engine = StubEngine({})

    outcomes = Scorer(engine, mini.info, max_batch=3).score([Job(image("teal"), "x")] * 8)  # type: ignore[arg-type]

    assert engine.sizes == [3, 3, 2]
    assert len(outcomes) == 8
    assert Scorer(engine, mini.info).score([]) == []  # type: ignore[arg-type]


def test_the_fake_scorer_gives_the_same_pair_the_same_scores() -> None:
    jobs = [Job(image("teal"), "x"), Job(image("teal"), "y"), Job(image("red"), "x", (Aspect.QUALITY,))]

    first, second = FakeScorer().score(jobs), load_scorer("fake").score(jobs)

    assert first == second
    assert first[0] != first[1]
    assert isinstance(first[2], Scores)
    assert set(first[2].aspects) == {Aspect.QUALITY}


def test_importing_the_scorer_does_not_import_torch() -> None:
    code = "import sys, m3agiqa.scorer; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_bundled_profile_is_the_one_that_was_loaded(mini: Scorer) -> None:
    assert mini.aspects == tuple(ModelProfile.load("mini").aspects)


def test_loading_tells_how_far_it_is() -> None:
    shares: list[float] = []

    Scorer.load("mini", "cpu", progress=shares.append)

    assert shares == sorted(shares)
    assert shares[0] < 0.1
    assert shares[-2:] == [1.0, 1.0]  # everything that was counted is read, and then the heads are made
