from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from m3agiqa.cli import main
from m3agiqa.train.data.dataset import load_data
from m3agiqa.train.data.splits import Split
from m3agiqa.train.data.swap import Swaps
from tests.m3agiqa.train.conftest import MakeData

SPLIT = Split(ratio=(2, 1))


@pytest.fixture
def data(make_data: MakeData) -> Path:
    return make_data(18, mos_quality=lambda index: 2, mos_align=lambda index: 3)


def swap(data: Path, output: Path, *arguments: str) -> int:
    config = data.parent / "swaps.yaml"
    settings = Swaps.load("mini-swaps").model_dump(mode="json") | {"split": SPLIT.model_dump(mode="json")}
    config.write_text(yaml.safe_dump(settings))
    return main(["data", "swap", str(data), "--config", str(config), "--output", str(output), *arguments])


def test_each_image_comes_once_more_under_a_prompt_of_its_part(data: Path, tmp_path: Path) -> None:
    # when
    assert swap(data, tmp_path / "out") == 0
    # then
    before, after = load_data(data), load_data(tmp_path / "out")
    own = {entry.name: entry for entry in before.entries}
    pairs = [entry for entry in after.entries if entry.name not in own]
    assert len(pairs) == len(own) == 18
    parts = SPLIT.names(before)
    for pair in pairs:
        source = own[pair.name.partition("~")[0]]
        assert pair.prompt != source.prompt
        assert pair.label("mos_align") == 0.5
        assert pair.label("mos_quality") is None
        assert pair.values["distortion"] == "prompt"
        assert pair.group("prefix") == source.group("prefix")
        assert after.image(pair.name).read_bytes() == before.image(source.name).read_bytes()
        part = parts["train"] if source.name in parts["train"] else parts["val"]
        assert pair.prompt in {own[name].prompt for name in part}
    # and the split falls where it fell
    for part, names in SPLIT.names(after).items():
        assert [name for name in names if name in own] == parts[part]


def test_distorted_copies_are_taken_over_and_not_paired(data: Path, tmp_path: Path) -> None:
    # given
    assert main(["data", "distort", str(data), "--config", "mini-distortions", "--output", str(tmp_path / "d")]) == 0
    # when
    assert swap(tmp_path / "d", tmp_path / "out", "--descriptions", str(tmp_path / "d" / "descriptions.jsonl")) == 0
    # then
    kinds = [entry.values["distortion"] for entry in load_data(tmp_path / "out").entries]
    assert (kinds.count(""), kinds.count("prompt"), len(kinds)) == (18, 18, 18 * 3)
    lines = [json.loads(line) for line in (tmp_path / "out" / "descriptions.jsonl").read_text().splitlines()]
    said = [line for line in lines if line["image"].partition("~")[2].startswith("prompt")]
    assert len(said) == 18
    assert all(line["aspect"] == "correspondence" and line["prompt"] in line["description"] for line in said)


def test_what_stands_in_the_way_is_said(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert swap(data, tmp_path) == 2
    assert "is not empty; name a new folder" in capsys.readouterr().err

    table = data / "data.csv"
    table.write_text(table.read_text().replace("mos_align", "mos_other"))
    assert swap(data, tmp_path / "out") == 1
    assert "has no column mos_align" in capsys.readouterr().err
