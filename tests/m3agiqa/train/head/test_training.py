"""`train` on the bundled model, with descriptions that tell the score."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from m3agiqa.cli import main
from m3agiqa.config import SHIPPED_DIR
from m3agiqa.contract import Aspect
from m3agiqa.errors import ConfigError
from m3agiqa.model.checkpoints import read_head
from m3agiqa.model.head import Head
from m3agiqa.scorer import Job, Scorer, Scores
from m3agiqa.train.data.dataset import load_data
from m3agiqa.train.head import fitting
from m3agiqa.train.head.cache import StateCache
from m3agiqa.train.head.settings import HeadTraining
from m3agiqa.train.head.training import Frozen, HeadTask, _state_name
from tests.m3agiqa.train.conftest import MakeData

SETTINGS: dict[str, Any] = {
    "model": "mini",
    "split": {"by": "prompt", "ratio": [3, 1]},
    "head": {"width": 64, "blocks": 2},
    "epochs": 3,
    "batch_size": 4,
    "learning_rate": 2e-3,
}


class Lab:
    """A data set, descriptions of it, and a place for runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder.parent
        self.descriptions = self.home / "descriptions.jsonl"
        lines = [
            {"image": entry.name, "description": "awful, blurred" if entry.label("mos_quality") == 1 else "fine"}
            for entry in load_data(folder).entries
        ]
        self.descriptions.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def config(self, **changes: Any) -> Path:
        path = self.home / "training.yaml"
        path.write_text(yaml.safe_dump({**SETTINGS, **changes}))
        return path

    def train(self, run: str, *arguments: str, own: bool = False, **changes: Any) -> int:
        command = ["train", str(self.folder), "--aspect", "quality", "--config", str(self.config(**changes))]
        given = [] if own else ["--descriptions", str(self.descriptions)]
        places = ["--run", str(self.home / run), "--cache", str(self.home / "cache"), "--device", "cpu"]
        return main([*command, *given, *places, *arguments])

    def metrics(self, run: str) -> list[dict[str, str]]:
        with (self.home / run / "metrics.csv").open(newline="") as file:
            return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


@pytest.fixture
def lab(make_data: MakeData) -> Lab:
    return Lab(make_data(12, mos_quality=lambda index: 1 + 3 * (index % 2)))


def test_a_run_learns_and_leaves_everything_in_its_folder(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    assert lab.train("run") == 0

    metrics = lab.metrics("run")
    assert [row["epoch"] for row in metrics] == ["0", "1", "2"]
    assert float(metrics[-1]["train_loss"]) < 0.7 * float(metrics[0]["train_loss"])
    run = lab.home / "run"
    with Image.open(run / "curves.png") as curves:
        assert curves.format == "PNG"
    assert yaml.safe_load((run / "settings.yaml").read_text())["learning_rate"] == 2e-3
    [named] = run.glob("best-epoch=*-val_SRCC=*.ckpt")
    state, other = read_head(named), read_head(run / "best.safetensors")
    assert all(torch.equal(state[key], other[key]) for key in state)
    captured = capsys.readouterr()
    assert captured.out.startswith("best epoch ")
    assert "9 images to train on, 3 to validate on" in captured.err


def test_a_share_of_each_part_can_do(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    assert lab.train("run", share=0.5, dtype="float16") == 0

    assert "4 images to train on, 2 to validate on" in capsys.readouterr().err
    assert len(list((lab.home / "cache").rglob("*.safetensors"))) == 6
    tensors = read_head(lab.home / "run" / "best.safetensors").values()
    assert {tensor.dtype for tensor in tensors} == {torch.float16}


def test_a_calibrated_head_spreads_its_scores_as_people_do(lab: Lab) -> None:
    # when
    assert lab.train("plain", epochs=1) == 0
    assert lab.train("calibrated", epochs=1, calibrate=True) == 0
    # then its last layer is the plain one's, stretched as far as it may be, and shifted
    [row] = lab.metrics("calibrated")
    slope, offset = float(row["slope"]), float(row["offset"])
    assert slope == pytest.approx(2.0)
    plain, calibrated = (read_head(lab.home / run / "best.safetensors") for run in ("plain", "calibrated"))
    weight, bias = "fc.2.weight", "fc.2.bias"
    assert torch.allclose(calibrated[weight], plain[weight] * slope)
    assert torch.allclose(calibrated[bias], plain[bias] * slope + offset)


def test_copies_with_assumed_scores_validate_nothing(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    # given that two of each prompt's three images are such copies
    table = lab.folder / "data.csv"
    head, *rows = table.read_text().splitlines()
    lines = [row + ("," if number % 3 == 0 else ",blur") for number, row in enumerate(rows)]
    table.write_text("\n".join([head + ",distortion", *lines]))

    assert lab.train("run", epochs=1) == 0

    assert "9 images to train on, 1 to validate on" in capsys.readouterr().err


def test_the_model_reads_each_image_once(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    assert lab.train("first") == 0
    states = {path: path.stat().st_mtime_ns for path in (lab.home / "cache").rglob("*.safetensors")}
    assert len(states) == 12

    # Whatever needs the model again fails.
    monkeypatch.setattr(Frozen, "load", None)

    assert lab.train("second", loss={"mae": 1.0, "fidelity": 0.5}) == 0
    assert {path: path.stat().st_mtime_ns for path in (lab.home / "cache").rglob("*.safetensors")} == states


def test_a_killed_run_continues_and_ends_as_an_unbroken_one(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    # given a run that is killed in its second epoch, after the weights moved on
    assert lab.train("whole") == 0
    validate, calls = fitting._validate, []

    def killed(*arguments: Any) -> fitting.Epoch:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return validate(*arguments)

    monkeypatch.setattr(fitting, "_validate", killed)
    assert lab.train("broken") == 130
    assert len(lab.metrics("broken")) == 1
    # when it goes on
    assert lab.train("broken") == 0
    # then
    for row, expected in zip(lab.metrics("broken"), lab.metrics("whole"), strict=True):
        assert {key: float(value) for key, value in row.items() if value} == pytest.approx(
            {key: float(value) for key, value in expected.items() if value}, abs=1e-6
        )
    ours, theirs = (read_head(lab.home / run / "best.safetensors") for run in ("broken", "whole"))
    assert all(torch.allclose(ours[key], theirs[key], atol=1e-6) for key in theirs)


def test_a_run_can_be_made_longer_but_not_changed(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    assert lab.train("run", "--epochs", "1") == 0
    assert lab.train("run", "--epochs", "2") == 0
    assert len(lab.metrics("run")) == 2

    assert lab.train("run", learning_rate=1e-4) == 1

    assert "holds a run with another learning_rate" in capsys.readouterr().err


def test_a_trained_head_scores_through_a_profile_as_it_did_in_training(lab: Lab) -> None:
    # given a head trained on what the model itself wrote
    assert lab.train("run", "--epochs", "1", own=True) == 0
    profile = yaml.safe_load((SHIPPED_DIR / "models" / "mini.yaml").read_text())
    part = profile["aspects"]["quality"] | {"head": str(lab.home / "run" / "best.safetensors")}
    (lab.home / "mine.yaml").write_text(yaml.safe_dump(profile | {"aspects": {"quality": part}}))
    # when
    data = load_data(lab.folder)
    task = HeadTask(data, Aspect.QUALITY, "mos_quality", HeadTraining.load(str(lab.config())))
    first = data.entries[0]
    state = _state_name(task, first)
    [outcome] = Scorer.load(str(lab.home / "mine.yaml"), "cpu").score([Job(data.open(first.name), first.prompt)])
    # then
    frozen = Frozen(task, "cpu")
    states = StateCache(lab.home / "cache", frozen.key(), 1e9).read(state)
    head = Head(read_head(lab.home / "run" / "best.safetensors"), frozen.lm_head())
    raw = float(head(states[None], torch.tensor([len(states)]))[0])
    assert isinstance(outcome, Scores)
    # The cache holds float16.
    assert outcome.aspects[Aspect.QUALITY].score == pytest.approx(min(max(raw, 0), 5), abs=5e-3)


def test_what_cannot_be_read_is_left_out_and_said(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    (lab.folder / "images" / "gen0_000.png").write_bytes(b"no image")
    lines = lab.descriptions.read_text().splitlines(keepends=True)
    lab.descriptions.write_text("".join(lines[:-1]))

    assert lab.train("run", "--epochs", "1") == 0

    err = capsys.readouterr().err
    assert "2 images could not be read and are left out" in err
    assert "gen0_000.png: not an image" in err


def test_scores_off_the_scale_are_refused(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    assert lab.train("run", label_scale=20.0) == 1
    assert "set label_scale" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["agiqa-3k", "aigciqa2023", "aigiqa-20k", "aigiqa-20k-to-3k"])
def test_every_data_set_has_its_settings(name: str) -> None:
    settings = HeadTraining.load(name)

    assert settings.loss == {"mse": 1.0}
    assert settings.head.width == 512
    assert (SHIPPED_DIR / "models" / f"{settings.model}.yaml").is_file()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"loss": {"ranknet": 1.0}, "batch_size": 1}, "batch_size must be 2 or more"),
        ({"loss": {"l2": 1.0}}, "loss"),
        ({"optimiser": "sgd"}, "optimiser"),
        ({"split": {"ratio": [1, 0]}}, "shares above 0"),
        ({"head": {"pooler": "attention"}}, "pooler"),
    ],
)
def test_wrong_settings_are_named(lab: Lab, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        HeadTraining.load(str(lab.config(**changes)))


def test_the_corrected_command_of_a_failed_start_is_taken(lab: Lab) -> None:
    assert lab.train("run", label_scale=20.0) == 1
    assert lab.train("run", "--epochs", "1") == 0


def test_a_finished_run_is_not_trained_again(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lab.train("run", "--epochs", "1") == 0
    line = capsys.readouterr().out
    monkeypatch.setattr("m3agiqa.train.head.training.fit", None)

    assert lab.train("run", "--epochs", "1") == 0

    captured = capsys.readouterr()
    assert captured.out == line
    assert "nothing is left to do" in captured.err


@pytest.mark.parametrize("change", ["score", "image", "description"])
def test_a_run_does_not_go_on_with_other_data(lab: Lab, capsys: pytest.CaptureFixture[str], change: str) -> None:
    # given a run, and its data set at another place, where it is the same
    assert lab.train("run", "--epochs", "1") == 0
    moved = lab.home / "moved"
    lab.folder.rename(moved)
    lab.folder = moved
    assert lab.train("run", "--epochs", "1") == 0
    # when something in it changes
    if change == "score":
        table = (moved / "data.csv").read_text()
        (moved / "data.csv").write_text(table.replace("gen0_000.png,thing 0,1", "gen0_000.png,thing 0,2"))
    elif change == "image":
        Image.new("RGB", (40, 30), "white").save(moved / "images" / "gen0_000.png")
    else:
        lab.descriptions.write_text(lab.descriptions.read_text().replace("awful", "poor"))
    # then it is another
    assert lab.train("run", "--epochs", "2") == 1
    assert "holds a run with another data; name another folder" in capsys.readouterr().err


def test_a_state_that_does_not_fit_says_what_to_delete(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    assert lab.train("run", "--epochs", "1") == 0
    torch.save({"module": {}, "optimizer": {}, "history": [{"epoch": 0}]}, lab.home / "run" / "last.pt")

    assert lab.train("run", "--epochs", "2") == 1

    assert "last.pt is damaged or does not fit: delete it" in capsys.readouterr().err


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": -1},
        {"seed": 2**64},
        {"learning_rate": float("inf")},
        {"label_scale": float("nan")},
        {"split": {"ratio": [1, float("inf")]}},
        {"head": {"blocks": 2, "slstm_at": [2]}},
        {"head": {"width": 64, "heads": 3}},
    ],
    ids=str,
)
def test_numbers_that_cannot_be_are_refused_before_anything_is_read(lab: Lab, changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        HeadTraining.load(str(lab.config(**changes)))
