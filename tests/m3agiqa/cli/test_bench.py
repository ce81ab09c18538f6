from __future__ import annotations

import csv
from pathlib import Path

import pytest

from m3agiqa.bench.card import Card
from m3agiqa.bench.stages import Measured, Report, StageSettings
from m3agiqa.cli import bench, main
from tests.support import ROOT


def report(*rows: Measured, **settings: object) -> Report:
    chosen = {**vars(StageSettings()), **settings}
    return Report("a GPU", "2026-01-01", {"torch": "2"}, chosen, Card(7.9e14, 3e12), rows=list(rows))


def test_rows_are_appended_with_what_the_card_can_do(tmp_path: Path) -> None:
    # given a file with a row of the original's algorithm
    file = tmp_path / "bench.csv"
    bench._append(report(Measured("original's algorithm", 1, 18.0, 0.056, {"score": 18.0}, 21.0)), file)
    # when one of the engine with drawn lengths follows
    row = Measured("engine", 8, 2.0, 4.0, {"decode": 900.0}, 60.0, {}, {"decode": 450.04})
    bench._check_columns(file)
    bench._append(report(row, lengths="reference"), file)
    # then
    with file.open(encoding="utf-8", newline="") as lines:
        first, second = csv.DictReader(lines)
    assert (first["tokens"], first["lengths"], first["card_ms"]) == ("100", "", "")
    assert (second["tokens"], second["lengths"], second["card_ms"]) == ("", "reference", '{"decode": 450.0}')
    assert (second["card_tflops"], second["card_tb_per_s"]) == ("790", "3.00")


def test_the_committed_rows_have_the_columns_of_new_ones() -> None:
    bench._check_columns(ROOT / "m3agiqa" / "bench" / "bench.csv")


def test_rows_of_other_columns_are_not_appended_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bench.csv"
    file.write_text("date,machine\n2026-01-01,a GPU\n", encoding="utf-8")
    assert main(["bench", "--csv", str(file)]) == 1
    assert "other columns" in capsys.readouterr().err
    assert file.read_text(encoding="utf-8") == "date,machine\n2026-01-01,a GPU\n"


@pytest.mark.parametrize("other", ["--baseline", "--soak 3", "--heads", "--precision", "--training"])
def test_lengths_are_for_the_engine_alone(other: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--lengths", "reference", *other.split()]) == 1
    assert "--lengths goes with none of" in capsys.readouterr().err
