from __future__ import annotations

from pathlib import Path

import pytest

from m3agiqa.cli import datasets
from m3agiqa.errors import DataError


def test_a_row_that_cannot_be_read_is_told_of_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Given a table with one row that is whole, and five that have too many cells
    wrong = "b.png,a cat, sitting\n" * 5
    (tmp_path / "data.csv").write_text("name,prompt\na.png,a cat\n" + wrong)

    # When a command reads it
    data = datasets.load(tmp_path, None)

    # Then the one is there, and the others are told of
    assert [entry.name for entry in data.entries] == ["a.png"]
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 4
    assert said[0].startswith(f"left out: {tmp_path / 'data.csv'}, line 3: ")
    assert said[3].startswith("left out: 2 more rows")


def test_a_table_of_which_no_row_can_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("name,prompt\nb.png,a cat, sitting\n")
    with pytest.raises(DataError, match=r"line 2: .*; no row of"):
        datasets.load(tmp_path, None)
