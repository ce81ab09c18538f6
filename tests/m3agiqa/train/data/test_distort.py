from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image

from m3agiqa.cli import main
from m3agiqa.contract import Aspect
from m3agiqa.images import noise_image
from m3agiqa.train.data.conversations import read_conversations
from m3agiqa.train.data.dataset import load_data
from m3agiqa.train.data.distort import Distortions, Kind, distorted
from tests.m3agiqa.train.conftest import MakeData

KINDS: tuple[Kind, ...] = get_args(Kind)
COPIES = Distortions.load("mini-distortions").copies


def distort(data: Path, output: Path, *arguments: str) -> int:
    return main(["data", "distort", str(data), "--config", "mini-distortions", "--output", str(output), *arguments])


@pytest.fixture
def data(make_data: MakeData) -> Path:
    return make_data(6, mos_quality=lambda index: 2 + 0.1 * index, mos_align=lambda index: 3)


def test_copies_are_worth_less_and_stay_with_their_prompt(data: Path, tmp_path: Path) -> None:
    # when
    assert distort(data, tmp_path / "out") == 0
    # then
    settings = Distortions.load("mini-distortions")
    before = {entry.name: entry for entry in load_data(data).entries}
    after = load_data(tmp_path / "out")
    originals = [entry for entry in after.entries if entry.name in before]
    copies = [entry for entry in after.entries if entry.name not in before]
    assert len(originals) == 6
    assert len(copies) == 6 * COPIES
    for entry in originals:
        assert entry.values["distortion"] == ""
        assert entry.label("mos_quality") == before[entry.name].label("mos_quality")
        assert after.image(entry.name).read_bytes() == (data / "images" / entry.name).read_bytes()
    for entry in copies:
        source = before[entry.name.partition("~")[0]]
        assert entry.prompt == source.prompt
        assert entry.group("prefix") == source.group("prefix")
        for column, share in settings.takes.items():
            score, strength = source.label(column), float(entry.values["strength"])
            assert score is not None
            assert entry.label(column) == pytest.approx(score * (1 - share * strength), abs=1e-5)
        with Image.open(after.image(entry.name)) as image:
            assert (image.size == (40, 30)) is (entry.values["distortion"] != "thumbnail")


def test_images_that_differ_by_their_ending_have_copies_of_their_own(data: Path, tmp_path: Path) -> None:
    text = (data / "data.csv").read_text()
    noise_image(40, 30, seed=1).rgb.save(data / "images" / "gen0_000.jpg")
    (data / "data.csv").write_text(text.replace("gen1_001.png", "gen0_000.jpg"))

    assert distort(data, tmp_path / "out") == 0

    names = [entry.name for entry in load_data(tmp_path / "out").entries]
    assert len(set(names)) == len(names) == 6 * (1 + COPIES)


def test_the_same_seed_makes_the_same_copies(data: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert distort(data, tmp_path / name) == 0

    one, two = (sorted((tmp_path / name).rglob("*.*")) for name in ("one", "two"))

    assert [path.name for path in one] == [path.name for path in two]
    assert all(mine.read_bytes() == theirs.read_bytes() for mine, theirs in zip(one, two, strict=True))


def test_descriptions_go_along_and_copies_have_their_own(data: Path, tmp_path: Path) -> None:
    # given a description of an image, and one of another data set's
    names = [entry.name for entry in load_data(data).entries]
    lines = [{"image": name, "aspect": "quality", "description": "It is dull."} for name in (names[0], "other.png")]
    (tmp_path / "said.jsonl").write_text("\n".join(map(json.dumps, lines)))
    # when
    out = tmp_path / "out"
    assert distort(data, out, "--descriptions", str(tmp_path / "said.jsonl")) == 0
    # then
    said = [json.loads(line) for line in (out / "descriptions.jsonl").read_text().splitlines()]
    assert [line["description"] for line in said if "~" not in line["image"]] == ["It is dull."]
    degrees = Distortions.load("mini-distortions").degrees.values()
    for line in said[1:]:
        assert any(degree in line["description"].lower() for degree in degrees), line
        assert "{" not in line["description"]
    assert len(said) == 1 + 6 * COPIES * len(Aspect)
    # and conversations can be made of them
    arguments = ["--aspect", "quality", "--descriptions", str(out / "descriptions.jsonl"), "--by", "picture"]
    assert main(["data", "conversations", str(out), *arguments]) == 0
    assert sum(len(read_conversations(out / f"{part}.json")) for part in ("train", "val")) == 1 + 6 * COPIES


@pytest.mark.parametrize("kind", KINDS)
def test_a_stronger_distortion_is_farther_from_the_image(kind: Kind) -> None:
    # given detail at every scale
    noise = torch.randint(0, 256, (96, 96, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    image = Image.blend(Image.fromarray(noise.numpy()), noise_image(96, 96, seed=3).rgb, 0.8)
    # when
    copies = [distorted(image, kind, strength, seed=1) for strength in (0.25, 0.5, 0.75, 1.0)]
    # then
    shown = [each.resize(image.size) for each in copies]
    errors = [np.square(np.asarray(each, float) - np.asarray(image, float)).mean() for each in shown]
    assert errors == sorted(errors)
    assert errors[0] > 0
    assert ({each.size for each in copies} == {image.size}) is (kind != "thumbnail")


def test_what_stands_in_the_way_is_said(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # a folder that holds something
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    assert distort(data, tmp_path / "full") == 1
    assert "is not empty" in capsys.readouterr().err
    # an image that is none
    (data / "images" / "gen0_002.png").write_text("no image")
    assert distort(data, tmp_path / "out") == 1
    assert "gen0_002.png" in capsys.readouterr().err
    # a column that is not there
    text = (data / "data.csv").read_text()
    (data / "data.csv").write_text(text.replace("mos_align", "other"))
    assert distort(data, tmp_path / "more") == 1
    assert "no column mos_align" in capsys.readouterr().err


def test_what_failed_leaves_nothing_that_refuses_the_corrected_command(data: Path, tmp_path: Path) -> None:
    # Given an image that cannot be read
    image = data / "images" / "gen0_004.png"
    before = image.read_bytes()
    image.write_bytes(b"no image")
    assert distort(data, tmp_path / "out") == 1
    # When it can
    image.write_bytes(before)
    # Then the same command makes the set
    assert distort(data, tmp_path / "out") == 0
    assert len(load_data(tmp_path / "out").entries) == 6 * (1 + COPIES)
    assert distort(data, tmp_path / "out") == 1
