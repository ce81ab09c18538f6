"""`m3agiqa calibrate`, `compare` and `translate`, from files to files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from m3agiqa import cli
from m3agiqa.contract import Decision
from m3agiqa.policy import Policy
from m3agiqa.report import judged
from tests.m3agiqa.report.made import some_images, write_batch, write_labels


@dataclass(frozen=True)
class Files:
    verdicts: Path
    newer: Path
    labels: Path
    policy: Path
    said: dict[str, str]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    rows, labels = some_images(300)
    newer, _ = some_images(300, model="new@1", shift=0.4)
    return Files(
        write_batch(tmp_path / "old.json", rows),
        write_batch(tmp_path / "new.json", newer),
        write_labels(tmp_path / "labels.csv", labels),
        tmp_path / "mine.yaml",
        labels,
    )


def calibrate(files: Files, *options: object) -> int:
    return cli.main(["calibrate", str(files.verdicts), str(files.labels), *map(str, options)])


def test_a_policy_is_written_that_keeps_its_promise_among_the_labelled(files: Files, tmp_path: Path) -> None:
    plot = tmp_path / "p.png"
    assert (
        calibrate(files, "--max-false-reject", 0.05, "--review-catch", 0.9, "--output", files.policy, "--plot", plot)
        == 0
    )
    policy = Policy.load(str(files.policy))
    assert policy.evidence is not None
    assert policy.evidence["labels"]["chosen"] == "every scored image is labelled"  # type: ignore[index, call-overload]
    images = list(judged.read(files.verdicts))
    decided = {image.id: policy.decide(image.scores, tuple(image.scores))[0] for image in images}
    good = [decided[name] for name, label in files.said.items() if label == "accept"]
    bad = [decided[name] for name, label in files.said.items() if label == "reject"]
    assert good.count(Decision.REJECT) <= 0.05 * len(good)
    assert bad.count(Decision.REJECT) > 0.8 * len(bad)
    assert bad.count(Decision.ACCEPT) <= 0.1 * len(bad)
    assert plot.stat().st_size > 10_000


def test_json_tells_each_rule_and_the_evidence(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    assert calibrate(files, "--catch", 0.9, "--next", 100, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert [list(rule["reject_below"]) for rule in result["rules"]] == [
        ["quality"],
        ["correspondence"],
        ["quality", "correspondence"],
    ]
    assert result["rules"][0]["rates"]["catch"]["interval"] == [0.9, 1]
    assert result["evidence"]["promises"] == [
        "with 95 % confidence, at least 90 % of the next 100 images that a person would reject are rejected"
    ]


def test_too_few_labels_end_with_one_sentence_and_no_file(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    assert calibrate(files, "--max-false-reject", 0.001, "--output", files.policy) == 1
    said = capsys.readouterr().err
    assert "that takes" not in said
    assert "it takes 2995 images labelled accept (about 5990 labels in all)" in said
    assert not files.policy.exists()


def test_scores_of_two_models_are_not_mixed(files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = tmp_path / "both.json"
    both.write_text(json.dumps([*json.loads(files.verdicts.read_text()), *json.loads(files.newer.read_text())]))
    call = ["calibrate", str(both), str(files.labels), "--catch", "0.8"]
    assert cli.main(call) == 1
    assert "several models (old@1: 300, new@1: 300)" in capsys.readouterr().err
    assert cli.main([*call, "--model", "new"]) == 0
    assert cli.main([*call, "--model", "none"]) == 1


@pytest.mark.parametrize("options", [("--catch", "1"), ("--catch", "0.5", "--output", "x.yml")])
def test_wrong_usage(files: Files, options: tuple[str, ...]) -> None:
    assert calibrate(files, *options) == 2


def test_two_models_are_compared(files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["compare", str(files.verdicts), str(files.newer)]
    assert cli.main([*call, "--plot", str(tmp_path / "c.png")]) == 0
    said = capsys.readouterr().out
    assert "300 shared images, matched by id" in said
    assert "decisions that differ" in said
    assert cli.main([*call, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["aspects"]["quality"]["shared"]["mean_shift"] > 0.3


def test_a_policy_is_translated_to_a_new_models_scores(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    # given a policy of the aspects that were scored
    before = Policy.load("default")
    own = files.policy.with_name("own.yaml")
    own.write_text("name: own\nversion: 1\naspects: {quality: {reject_below: 1.5, review_below: 2.5}}\n")
    call = ["translate", str(files.verdicts), str(files.newer), "--policy", str(own), "--output", str(files.policy)]
    # when it is translated to a model that scores 0.4 higher
    assert cli.main(call) == 0
    # then the thresholds are higher, and the evidence says why
    new = Policy.load(str(files.policy))
    assert new.aspects.keys() < before.aspects.keys()
    [thresholds] = new.aspects.values()
    assert thresholds.reject_below == pytest.approx(1.9, abs=0.25)
    assert thresholds.review_below == pytest.approx(2.9, abs=0.25)
    assert new.evidence is not None
    assert new.evidence["models"] == {"old": "old@1", "new": "new@1"}
    assert "policy mine, version 1" in capsys.readouterr().out
