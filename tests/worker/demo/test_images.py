from __future__ import annotations

import csv

import pytest

from m3agiqa.images import open_image
from worker.demo.show import IMAGES as FOLDER

ROWS = list(csv.DictReader((FOLDER / "manifest.csv").read_text(encoding="utf-8").splitlines()))


def test_the_manifest_names_every_image_once() -> None:
    files = [row["image_path"] for row in ROWS]
    assert len(files) == len(set(files)) == 12
    assert set(files) == {file.name for file in FOLDER.iterdir()} - {"manifest.csv", "LICENCES.md"}
    assert sum(1 for row in ROWS if row["distorted"]) == 6


@pytest.mark.parametrize("row", ROWS, ids=[row["image_path"] for row in ROWS])
def test_a_image_is_small_opens_and_states_its_licence(row: dict[str, str]) -> None:
    data = (FOLDER / row["image_path"]).read_bytes()
    assert len(data) <= 40_000
    info = open_image(data).info
    assert max(info.width, info.height) <= 384
    assert row["prompt"]
    assert row["source"]
    assert row["licence"] in ("CC0-1.0", "public domain")
    stem = row["image_path"].split("-")[0].split(".")[0]
    assert f"`{stem}" in (FOLDER / "LICENCES.md").read_text(encoding="utf-8")
