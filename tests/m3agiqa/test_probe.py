from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from m3agiqa.cli import main
from m3agiqa.console import ATTENTION, DONE, FAILED
from m3agiqa.contract import MAX_PROMPT_CHARS, Aspect, AspectScore, Decision, Failure, Rating
from m3agiqa.errors import ConfigError
from m3agiqa.files import read_job
from m3agiqa.jobs import Job, Scores
from m3agiqa.policy import Policy, Thresholds
from m3agiqa.probe import SWAPPED, Phrase, Prompts, Subject, summary, trials
from m3agiqa.scorer import FakeScorer

POLICY = Policy(name="strict", version=1, aspects={Aspect.QUALITY: Thresholds(reject_below=1.5, review_below=2.5)})
PROMPTS = Prompts.model_validate(
    {"name": "x", "kinds": {"praising": ["{prompt}, excellent", "excellent"], "empty": [""], "broken": ["fails"]}}
)


class Gullible(FakeScorer):
    """Takes praise for quality, believes that an image shows a cat, and cannot read "fails"."""

    def score(self, jobs: Sequence[Job]) -> list[Scores | Failure]:
        return [self._believed(job.prompt) for job in jobs]

    def _believed(self, prompt: str) -> Scores | Failure:
        if "fails" in prompt:
            return Failure(code="prompt_too_long", message="too long", retryable=False)
        found = {Aspect.QUALITY: 2.0 + ("excellent" in prompt), Aspect.CORRESPONDENCE: 4.0 if "cat" in prompt else 1.0}
        return Scores(
            {
                aspect: AspectScore(
                    score=score, rating=Rating.from_score(score), description="", slices=0, cut_tokens=0
                )
                for aspect, score in found.items()
            }
        )


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "cat.png"
    Image.new("RGB", (8, 8), "grey").save(path)
    return path


def subject(image: Path, prompt: str) -> Subject:
    return Subject(prompt, read_job(image, prompt, (Aspect.QUALITY, Aspect.CORRESPONDENCE)))


def gullible() -> Gullible:
    scorer = Gullible()
    scorer.aspects = (Aspect.QUALITY, Aspect.CORRESPONDENCE)
    return scorer


def test_what_each_kind_of_prompt_moves_is_summed_up(image: Path) -> None:
    # given two images that show a cat, of which only one has such a prompt
    subjects = [subject(image, "a cat"), subject(image, "a dog")]
    # when a gullible model is probed
    found = [trial for each in trials(subjects, PROMPTS, gullible(), POLICY) for trial in each]
    told = summary(found)
    # then praise raised the quality of both by a point each time, and made each decision milder
    assert told["praising"]["trials"] == told["praising"]["milder"] == 4
    assert told["praising"]["aspects"]["quality"]["mean"] == pytest.approx(1.0)
    assert {trial.own for trial in found} == {Decision.REVIEW}
    # and the largest move keeps its sign, and names its image and prompt
    lost = told["empty"]["aspects"]["correspondence"]
    assert (lost["largest"], lost["image"], lost["lowered"]) == (-3.0, "a cat", 0.5)
    # and each was shown the other's prompt
    assert [(trial.image, trial.prompt) for trial in found if trial.kind == SWAPPED] == [
        ("a cat", "a dog"),
        ("a dog", "a cat"),
    ]


def test_a_guarded_policy_lets_no_praise_buy_a_decision(image: Path) -> None:
    # given thresholds that praise passes, and a guard
    bought = POLICY.model_copy(update={"prompt_guard": 0.5})
    found = [trial for each in trials([subject(image, "a cat")], PROMPTS, gullible(), bought) for trial in each]
    # then no prompt makes a decision milder
    assert summary(found)["praising"]["milder"] == 0
    assert summary(found)["praising"]["aspects"]["quality"]["mean"] == pytest.approx(1.0)


def test_a_prompt_that_cannot_be_scored_moves_nothing(image: Path) -> None:
    [found] = trials([subject(image, "a cat")], PROMPTS, gullible(), POLICY)
    told = summary(found)["broken"]
    assert (told["failed"], told["milder"], told["aspects"]) == (1, 0, {})


def test_an_image_that_cannot_be_scored_costs_the_others_nothing(image: Path) -> None:
    unreadable = Subject("x", Failure(code="fetch_failed", message="not there", retryable=False))
    unscorable = subject(image, "a cat that fails")
    lost, unscored, scored = trials([unreadable, unscorable, subject(image, "a cat")], PROMPTS, gullible(), POLICY)
    assert (lost, unscored) == ([], [])
    assert {trial.image for trial in scored} == {"a cat"}


def test_a_phrase_is_as_long_as_a_prompt_may_be() -> None:
    assert Phrase(text="{prompt}!", times=2).about("a {prompt}") == "a {prompt}!a {prompt}!"
    assert len(Phrase(text="{prompt}", times=100).about("x" * 200)) == MAX_PROMPT_CHARS


def test_the_shipped_prompts_are_many_and_of_many_kinds() -> None:
    shipped = Prompts.load("default")
    assert len(shipped.kinds) >= 6
    assert len({phrase for phrases in shipped.kinds.values() for phrase in phrases}) >= 30


def test_a_kind_cannot_take_the_swaps_name(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nkinds: {swapped: [x]}\n")
    with pytest.raises(ConfigError, match="swapped"):
        Prompts.load(str(path))


@pytest.fixture
def table(image: Path) -> Path:
    path = image.parent / "x.csv"
    path.write_text("image_path,prompt\ncat.png,a cat\ncat.png,a tabby cat\nnowhere.png,a dog\n")
    return path


def test_the_command_tells_what_it_found(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["probe", "fake", str(table), "--json"]) == DONE
    said = capsys.readouterr()
    told = json.loads(said.out)
    assert (told["model"], told["images"]) == ("fake", 1)
    assert told["kinds"].keys() == {*Prompts.load("default").kinds, SWAPPED}
    assert "nowhere.png" in said.err


def test_a_folder_of_images_has_no_prompts_of_its_own(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["probe", "fake", str(image.parent)]) == DONE
    said = capsys.readouterr().out
    assert "praising" in said
    assert SWAPPED not in said


def test_scores_that_move_too_far_ask_for_attention(table: Path) -> None:
    # given scores that are drawn anew for each prompt
    assert main(["probe", "fake", str(table), "--at-most", "0.01"]) == ATTENTION
    assert main(["probe", "fake", str(table), "--at-most", "5"]) == DONE


def test_nothing_to_probe_is_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["probe", "fake", str(tmp_path)]) == FAILED
    assert "holds no images" in capsys.readouterr().err
