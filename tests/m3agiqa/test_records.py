from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel

from m3agiqa.errors import DataError, OutputError
from m3agiqa.records import RecordFile, versioned
from tests.support import ROOT


class Line(BaseModel):
    name: str
    number: float | None


LINES = [Line(name="a", number=1.5), Line(name='"b",\r\nc', number=2), Line(name="=猫", number=0.1 + 0.2)]


@pytest.fixture
def file(tmp_path: Path) -> RecordFile[Line]:
    return RecordFile(tmp_path / "lines.csv", Line, "m3agiqa lines")


def test_what_is_appended_is_there_whatever_ends_the_run(file: RecordFile[Line]) -> None:
    # when a run ends in the middle
    with pytest.raises(KeyboardInterrupt), file.growing([]) as append:  # noqa: PT012
        append(LINES[:2])
        raise KeyboardInterrupt
    # then another goes on from there
    assert file.left() == LINES[:2]
    with file.growing(file.left()) as append:
        append(LINES[2:])
    assert file.read() == LINES


def test_wherever_a_file_is_cut_its_whole_rows_are_left(file: RecordFile[Line]) -> None:
    file.write(LINES)
    content = file.path.read_bytes()
    header = content.index(b"\n") + 1
    for end in range(header, len(content)):
        file.path.write_bytes(content[:end])
        left = file.left()
        assert left == LINES[: len(left)]
        assert len(left) >= content[:end].count(b"\r\n") - 2  # one ends the first line, one stands inside a cell


def test_a_new_or_empty_file_has_nothing_left(file: RecordFile[Line]) -> None:
    assert file.left() == []
    file.path.touch()
    assert file.left() == []


def test_a_damaged_row_is_told_of_or_done_again(file: RecordFile[Line]) -> None:
    file.write(LINES)
    file.path.write_bytes(file.path.read_bytes().replace(b"a,1.5", b"a,1.5,6"))

    with pytest.raises(DataError, match="line 2: it has 3 cells"):
        file.read()
    assert file.left() == LINES[1:]


@pytest.mark.parametrize("content", ["name,other\na,1\n", "\0", "name,number\na,many\n"])
def test_a_file_of_another_kind_is_refused_and_stays(file: RecordFile[Line], content: str) -> None:
    file.path.write_text(content)

    with pytest.raises(DataError):
        file.left()

    assert file.path.read_text() == content


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_cannot_be_read_again_is_refused_and_not_waited_for(file: RecordFile[Line], make: object) -> None:
    assert callable(make)
    make(file.path)
    with pytest.raises(OutputError, match="must be a file"):
        file.left()


FULL = """
import sys
from pathlib import Path
from m3agiqa.errors import OutputError
from tests.m3agiqa.test_records import Line, RecordFile
file = RecordFile(Path(sys.argv[1]), Line, "m3agiqa lines")
try:
    with file.growing([]) as append:
        for number in range(1000):
            append([Line(name="x" * 50, number=number)])
except OutputError as error:
    sys.exit(str(error))
"""


def test_a_full_disk_is_one_line_and_leaves_whole_rows(file: RecordFile[Line]) -> None:
    # given room for some rows
    room = 10_001
    ended = subprocess.run(
        [sys.executable, "-c", FULL, str(file.path)],
        cwd=ROOT,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room)),
        capture_output=True,
        text=True,
        check=False,
    )
    # then one line says so, and what fits is whole
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    assert "the same command goes on" in ended.stderr
    assert file.path.read_bytes().endswith(b"\n")
    assert [line.number for line in file.read()] == list(range(len(file.read())))
    assert len(file.read()) > room // 100
    assert [path.name for path in file.path.parent.iterdir()] == [file.path.name]


def test_a_name_with_its_version_hangs_on_the_content() -> None:
    first, same, other = (versioned("x", line) for line in (LINES[0], Line(name="a", number=1.5), LINES[1]))

    assert first == same != other
    assert first.startswith("x@")
