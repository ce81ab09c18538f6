from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from m3agiqa.cli import main
from m3agiqa.contract import Aspect
from m3agiqa.profile import ModelProfile
from m3agiqa.train.data.check import check_data
from m3agiqa.train.data.conversations import ConversationRecord, write_conversations
from m3agiqa.train.data.dataset import load_data
from tests.m3agiqa.train.conftest import MakeData, write_table

ASKED = ModelProfile.load("published").aspects[Aspect.QUALITY]


def problems(folder: Path, aspect: Aspect | None = None, scale: float = 1) -> str:
    return "\n".join(check_data(load_data(folder), aspect=aspect, scale=scale))


def test_a_sound_data_set_has_no_problems(make_data: MakeData, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_data()

    assert problems(folder) == ""
    assert main(["data", "check", str(folder)]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "12 images, 4 prompts, no kinds of problem" in captured.err


def test_every_kind_of_problem_is_said_in_words(make_data: MakeData, capsys: pytest.CaptureFixture[str]) -> None:
    # given one image of each kind
    folder = make_data()
    images = folder / "images"
    (images / "gen0_000.png").unlink()
    (images / "gen1_001.png").write_bytes(b"no image")
    shutil.copy(images / "gen0_002.png", images / "gen1_003.png")
    shutil.copy(images / "gen0_002.png", images / "stray.png")
    rows = [{"name": entry.name, "prompt": entry.prompt, "mos": "3"} for entry in load_data(folder).entries]
    rows[4]["mos"], rows[5]["mos"], rows[6]["prompt"], rows[7]["mos"] = "7.5", "2,5", "", ""
    write_table(folder / "data.csv", [*rows, {**rows[7], "prompt": "another"}])
    # when
    found = problems(folder)
    # then
    for sentence in (
        "1 image (gen1_007.png): stands in the table more than once",
        "1 image (gen1_007.png): has several prompts",
        "1 image (gen0_006.png): has no prompt",
        f"1 image (gen0_000.png): is not in {images}",
        "1 image (gen1_001.png (not an image in one of the formats JPEG, PNG, WEBP, GIF, AVIF)): cannot be read",
        "1 group (gen0_002.png = gen1_003.png): same content",
        "1 image (stray.png): is in no table",
        f"{folder / 'data.csv'}, line 7: mos is '2,5', which is no number; decimals follow a point",
        "1 image (gen1_007.png): has no mos",
        "1 image (gen0_004.png): has a mos outside 0..5",
    ):
        assert sentence in found
    assert main(["data", "check", str(folder)]) == 1
    assert capsys.readouterr().out.splitlines() == found.splitlines()


def test_rows_that_are_wrong_are_listed(make_data: MakeData, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_data(3)
    with (folder / "data.csv").open("a", encoding="utf-8") as file:
        file.write('x.png,a cat, on a mat,3\ny.png,"open,3\n')

    assert main(["data", "check", str(folder)]) == 1

    first, second = capsys.readouterr().out.splitlines()
    assert "line 5: it has 4 cells" in first
    assert "line 6: its quotes do not match" in second


def test_images_that_cannot_be_looked_at_are_listed_with_the_others(make_data: MakeData) -> None:
    # given a name that is too long, one that is empty, a link to itself, and a file whose name is no UTF-8
    folder = make_data(1)
    rows = [{"name": name, "prompt": "p", "mos": 3} for name in ("gen0_000.png", "x" * 300, "", "loop.png")]
    write_table(folder / "data.csv", rows)
    (folder / "images" / "loop.png").symlink_to("loop.png")
    (folder / "images" / os.fsdecode(b"\xd6\xd0.png")).touch()
    # when
    found = problems(folder)
    # then
    assert "2 images (" in found
    assert "(no name)): is not in" in found
    assert "1 image (loop.png (" in found
    assert r"\udcd6\udcd0.png" in found
    found.encode()


def test_scores_up_to_100_hint_at_the_scale(make_data: MakeData) -> None:
    folder = make_data(6, mos=lambda index: 20 * index)

    assert "label scale of 0.05" in problems(folder)
    assert problems(folder, scale=0.05) == ""


def test_many_names_are_counted_and_few_shown(make_data: MakeData) -> None:
    folder = make_data()
    shutil.rmtree(folder / "images")
    (folder / "images").mkdir()

    assert problems(folder).startswith("12 images (gen0_000.png, gen1_001.png, gen0_002.png and 9 more): is not in")
    (folder / "images").rmdir()
    assert "there is no folder" in problems(folder)


def test_conversations_are_held_against_the_table(make_data: MakeData) -> None:
    # given words that follow another aspect's scores, as published alignment files have them
    folder = make_data(4, mos_quality=lambda index: 1.5, mos_align=lambda index: 4.5)
    names = [entry.name for entry in load_data(folder).entries]
    made = [
        ConversationRecord.for_training(name, name, "p", "It is.", 1.5, ASKED)
        for name in [*names, "stray.png", names[0]]
    ]
    write_conversations(folder / "train.json", made)
    write_conversations(folder / "val.json", [ConversationRecord.for_training("x", names[1], "p", " ", 1.5, ASKED)])
    # then
    assert "another rating word" not in problems(folder, Aspect.QUALITY)
    found = problems(folder, Aspect.CORRESPONDENCE)
    for sentence in (
        "of train.json has another rating word than its mos_align says",
        "1 image (stray.png): of train.json is in no table",
        f"1 image ({names[0]}): stands in train.json more than once",
        f"1 image ({names[1]}): of val.json has no description",
        f"1 image ({names[1]}): is in more than one part of the split",
    ):
        assert sentence in found
    (folder / "val.json").write_text(json.dumps([{"id": "1"}]))
    assert "val.json, item 1: image: Field required" in problems(folder)
