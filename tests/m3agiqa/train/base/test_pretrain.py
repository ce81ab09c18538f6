"""`pretrain` at a tiny shape."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from m3agiqa.bench.random_weights import write_adapter, write_head
from m3agiqa.cli import main
from m3agiqa.contract import Aspect
from m3agiqa.images import noise_image
from m3agiqa.jobs import Job, Scores
from m3agiqa.model.shape import Shape
from m3agiqa.model.slicing import Grid, Slicing
from m3agiqa.model.vision import Tower
from m3agiqa.profile import ModelProfile
from m3agiqa.scorer import Scorer
from m3agiqa.train.base.backbone import MAP_CHANNELS
from m3agiqa.train.base.settings import Pretraining
from m3agiqa.train.base.student import Student, map_loss
from m3agiqa.train.base.views import Cut, cut
from m3agiqa.train.data.conversations import ConversationRecord, write_conversations
from m3agiqa.train.data.dataset import load_data
from tests.m3agiqa.train.conftest import MakeData

SHAPE = {
    "vocab": 300,
    "hidden": 32,
    "layers": 1,
    "heads": 2,
    "kv_heads": 1,
    "ffn": 48,
    "vision_hidden": 32,
    "vision_layers": 1,
    "vision_heads": 2,
    "vision_ffn": 48,
    "patch": 16,
    "scale": 32,
    "positions": 8,
    "queries": 2,
    "rank": 2,
    "head_width": 64,
    "saved": [],
}
SETTINGS: dict[str, Any] = {
    "shape": SHAPE,
    "labels": ["mos_quality"],
    "split": {"ratio": [3, 1]},
    "side": 64,
    "teacher": {"sizes": [[64, 64], [32, 32]], "epochs": 2, "batch_size": 4, "learning_rate": 1e-5},
    "sizes": [[64, 64], [32, 64]],
    "steps": 3,
    "batch_size": 4,
    "text_steps": 3,
    "text_batch_size": 4,
    "evaluate_every": 2,
    "autocast": False,
}
#: Share by which what is computed twice may differ: sums may be added up in another order, and weights are float16.
ROUNDING = 1e-3


class Lab:
    def __init__(self, data: Path) -> None:
        self.data = data
        asked = ModelProfile.load("mini").aspects[Aspect.QUALITY]
        entries = load_data(data).entries
        for number, entry in enumerate(entries):
            noise_image(64, 64, seed=number).rgb.save(data / "images" / entry.name)
        made = [
            ConversationRecord.for_training(entry.name, entry.name, entry.prompt, "It is dull.", 2, asked)
            for entry in entries
        ]
        write_conversations(data / "train.json", made)

    def pretrain(self, run: str, *arguments: str, **changes: Any) -> int:
        config = self.data.parent / "base.yaml"
        config.write_text(yaml.safe_dump({**SETTINGS, **changes}))
        conversations = ["--conversations", str(self.data / "train.json")]
        places = ["--config", str(config), "--run", str(self.run(run)), "--device", "cpu"]
        return main(["pretrain", str(self.data), *places, *conversations, *arguments])

    def run(self, name: str) -> Path:
        return self.data.parent / name

    def weights(self, run: str) -> dict[str, torch.Tensor]:
        return load_file(self.run(run) / "base" / "model.safetensors")

    def table(self, run: str) -> list[dict[str, str]]:
        with (self.run(run) / "metrics.csv").open(encoding="utf-8") as file:
            return list(csv.DictReader(file))


def assert_same_weights(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert torch.allclose(found[key].float(), tensor.float(), rtol=ROUNDING, atol=1e-6), key


@pytest.fixture
def lab(make_data: MakeData) -> Lab:
    return Lab(make_data(12))


def test_a_base_learns_and_scores_through_the_one_door(lab: Lab) -> None:
    # when
    assert lab.pretrain("run", steps=30, text_steps=30, evaluate_every=10, learning_rate=3e-3, ema=0.9, altered=0) == 0
    # then everything that was taught was learned
    table = lab.table("run")
    for loss in ("map", "pooled", "rating", "order"):
        assert float(table[2][loss]) < float(table[0][loss]), loss
    for loss in ("pooled", "rating", "order", "text"):
        assert float(table[5][loss]) < float(table[3][loss]), loss
    texts = [float(line["text"]) for line in table]
    assert texts[:3] == [0, 0, 0]
    assert 0 < texts[5] < texts[3]
    # and what it wrote is a base like any other
    home, shape = lab.data.parent, Shape(**{**SHAPE, "saved": ()})
    write_adapter(home / "adapter", shape, seed=1)
    write_head(home / "head.safetensors", shape, seed=1)
    part = ModelProfile.load("mini").aspects[Aspect.QUALITY].model_dump()
    part |= {"adapter": "adapter", "head": "head.safetensors"}
    describe = {"max_new_tokens": 8}
    content = {"name": "lab", "base": "run/base", "describe": describe, "aspects": {"quality": part}}
    (home / "lab.yaml").write_text(yaml.safe_dump(content))
    scorer = Scorer.load(ModelProfile.load(str(home / "lab.yaml")), device="cpu")
    [outcome] = scorer.score([Job(noise_image(64, 64, seed=99), "a thing")])
    assert isinstance(outcome, Scores)
    assert outcome.aspects[Aspect.QUALITY].slices == 4


def test_a_killed_run_ends_as_an_unbroken_one(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    # given a run that is interrupted behind its first checkpoint
    assert lab.pretrain("unbroken") == 0
    step = Pretraining.rate

    def interrupted(self: Pretraining, number: int) -> float:
        if number == 4:
            raise KeyboardInterrupt
        return step(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(Pretraining, "rate", interrupted)
        assert lab.pretrain("broken") == 130
    assert not (lab.run("broken") / "base" / "model.safetensors").exists()
    # when
    assert lab.pretrain("broken") == 0
    # then
    assert_same_weights(lab.weights("broken"), lab.weights("unbroken"))
    for expected, row in zip(lab.table("unbroken"), lab.table("broken"), strict=True):
        assert {key: float(value) for key, value in row.items()} == pytest.approx(
            {key: float(value) for key, value in expected.items()}, rel=ROUNDING, nan_ok=True
        )


def test_another_configuration_needs_another_folder(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    assert lab.pretrain("run", steps=1) == 0

    assert lab.pretrain("run", steps=1, batch_size=2) == 1

    assert "another batch_size; name another folder" in capsys.readouterr().err


def test_other_conversations_need_another_folder(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    assert lab.pretrain("run", steps=1) == 0
    tokenizer = (lab.run("run") / "base" / "tokenizer.json").read_bytes()
    text = (lab.data / "train.json").read_text()
    (lab.data / "train.json").write_text(text.replace("It is dull.", "Nothing is sharp in it."))

    assert lab.pretrain("run", steps=1) == 1

    assert "another conversations; name another folder" in capsys.readouterr().err
    assert (lab.run("run") / "base" / "tokenizer.json").read_bytes() == tokenizer


def test_scores_of_images_that_are_not_trained_on_teach_nothing(make_data: MakeData) -> None:
    # given a split of three parts
    lab = Lab(make_data(18))
    parts = {"split": {"ratio": [2, 1, 1]}}
    kept_back = Pretraining.model_validate({**SETTINGS, **parts}).split.names(load_data(lab.data))
    assert lab.pretrain("before", **parts) == 0
    # when the scores of all that are not trained on change
    lines = (lab.data / "data.csv").read_text().splitlines()
    others = {*kept_back["val"], *kept_back["test"]}
    changed = [line.rpartition(",")[0] + ",5" if line.split(",")[0] in others else line for line in lines]
    assert changed != lines
    (lab.data / "data.csv").write_text("\n".join(changed))
    assert lab.pretrain("after", **parts) == 0
    # then the base does not
    assert_same_weights(lab.weights("after"), lab.weights("before"))


def test_an_image_that_cannot_be_read_is_named(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    (lab.data / "images" / "gen1_005.png").write_text("no image")

    assert lab.pretrain("run") == 1

    assert "gen1_005.png" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"sizes": [[60, 64]]}, "sizes"),
        ({"sizes": [[96, 64]]}, "sizes must not exceed side, 64"),
        ({"shape": {**SHAPE, "width": 3}}, "width"),
        ({"labels": ["mos_qualty"]}, "no column mos_qualty"),
    ],
)
def test_a_wrong_configuration_is_named(
    lab: Lab, capsys: pytest.CaptureFixture[str], wrong: dict[str, Any], named: str
) -> None:
    assert lab.pretrain("run", **wrong) == 1
    assert named in capsys.readouterr().err


def test_the_bundled_bases_configuration_is_valid() -> None:
    settings = Pretraining.load("mini-base")

    for begin, steps in ((0, settings.steps), (settings.steps, settings.text_steps)):
        assert settings.rate(begin) < settings.rate(begin + 100)
        assert settings.rate(begin + steps - 1) < settings.learning_rate / 100


def test_slices_are_put_together_where_they_were_cut() -> None:
    # given an overview and 2 x 3 slices of 4 x 5 patches, each patch with its own place as its feature
    whole = torch.arange(2 * 4 * 3 * 5).view(2 * 4, 3 * 5)
    slices = [
        whole[row * 4 : row * 4 + 4, column * 5 : column * 5 + 5].reshape(-1) for row in range(2) for column in range(3)
    ]
    read = torch.stack([torch.full((20,), -1), *slices])[None, :, :, None]
    # when
    put = Student._map(read, Cut(Grid(3, 2), [], [(4, 5)] * 7))
    # then
    assert torch.equal(put[0, 0], whole)


def test_the_student_encodes_as_the_tower_does() -> None:
    # given images whose slices are longer than their overview
    torch.manual_seed(0)
    student = Student(Shape(**{**SHAPE, "saved": ()}).config(), 1)
    slicing = Slicing(patch=16, scale=48)
    images = torch.randint(0, 256, (2, 3, 96, 64), dtype=torch.uint8)
    pieces = cut(images, slicing, 9)
    assert len({cell.shape[1] for cell in pieces.cells}) == 2
    # when
    with torch.no_grad():
        found = student.encode(pieces)
    # then
    for image, features in zip(images, found, strict=True):
        rgb = Image.fromarray(image.permute(1, 2, 0).numpy())
        own = slicing.cut(rgb, slicing.grid(*rgb.size, 9))
        with torch.no_grad():
            expected = Tower.encode(student.base, own.patches)
        # Pillow rounds to whole pixel values where the student's views are resized without rounding.
        assert (features - expected).abs().mean() < 0.01
        assert torch.allclose(features, expected, atol=0.1)


def test_maps_of_another_fineness_are_compared_at_the_coarser_ones_places() -> None:
    # given a map and the same at half its fineness
    coarse = torch.rand(1, MAP_CHANNELS, 2, 3)
    fine = coarse.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    # then
    assert float(map_loss(coarse, fine)) < 1e-12


def test_a_finished_run_is_not_trained_again(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lab.pretrain("run", steps=1) == 0
    monkeypatch.setattr("m3agiqa.train.base.pretrain.Material", None)

    assert lab.pretrain("run", steps=1) == 0

    assert "nothing is left to do" in capsys.readouterr().err


def test_a_failed_start_and_other_images(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    # given a start that failed
    assert lab.pretrain("run", steps=1, labels=["mos_qualty"]) == 1
    # then the corrected command runs
    assert lab.pretrain("run", steps=1) == 0
    # but not with another image, nor another score
    path = lab.data / "images" / "gen0_000.png"
    before = path.read_bytes()
    noise_image(64, 64, seed=77).rgb.save(path)
    assert lab.pretrain("run", steps=1) == 1
    path.write_bytes(before)
    table = (lab.data / "data.csv").read_text()
    (lab.data / "data.csv").write_text(table.replace("thing 0,0.0", "thing 0,0.5"))
    assert lab.pretrain("run", steps=1) == 1
    assert capsys.readouterr().err.count("holds a run with another data; name another folder") == 2
