"""What `m3agiqa batch` keeps and continues, with the fake model."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from PIL import Image

from m3agiqa import outputs
from m3agiqa.batch import Record
from m3agiqa.cli import local, main
from m3agiqa.contract import Failure
from m3agiqa.errors import OutputError
from m3agiqa.jobs import Job, Scores
from m3agiqa.scorer import FakeScorer
from tests.support import PATIENCE_S, ROOT, eventually

Output = pytest.CaptureFixture[str]

IMAGES = 12


class Watched(FakeScorer):
    """Counts images, and ends the run instead of the batch that brings them above a number."""

    def __init__(self, allowed: int, end: BaseException) -> None:
        super().__init__()
        self.allowed, self.end, self.scored = allowed, end, 0

    def score(self, jobs: Sequence[Job]) -> list[Scores | Failure]:
        if self.scored + len(jobs) > self.allowed:
            raise self.end
        self.scored += len(jobs)
        return super().score(jobs)


Watch = Callable[..., Watched]


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    def watch(allowed: int = 1_000_000, end: BaseException | None = None) -> Watched:
        scorer = Watched(allowed, end or KeyboardInterrupt())
        monkeypatch.setattr(local, "load_scorer", lambda *_, **__: scorer)
        return scorer

    return watch


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Images of their own, of which two have one prompt in common and one row stands twice."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "in.csv"
    rows = []
    for number in range(IMAGES):
        Image.new("RGB", (16, 16), (number * 20, 0, 0)).save(tmp_path / f"{number}.png")
        rows.append((f"{number}.png", f'thing {number // 2}, "quoted"'))
    rows[5] = rows[4]
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("image_path", "prompt"), *rows])
    return path


def batch(table: Path, *options: str, output: str = "out.json") -> int:
    return main(["batch", str(table), "--output", output, "--batch-size", "2", "--model", "fake", *options])


def scores(path: str = "out.json") -> list[tuple[str, str, float | None]]:
    return [(row["image_path"], row["aspect"], row["score"]) for row in json.loads(Path(path).read_text("utf-8"))]


def test_the_csv_file_says_what_the_json_file_says(table: Path) -> None:
    with table.open("a", encoding="utf-8") as file:
        file.write("missing.png,p\nwrong,row,\n")

    assert batch(table, "--policy", "default") == 0

    records = json.loads(Path("out.json").read_text("utf-8"))
    with Path("out.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(Record.model_fields) == list(records[0])
    assert [Record.model_validate(row).model_dump(mode="json") for row in rows] == records
    assert {record["decision"] for record in records} == {"accept", "review", "reject"}
    rejected = next(row for row in rows if row["decision"] == "reject")
    assert "< reject_below" in rejected["reasons"]
    assert [record["decision"] for record in records[-6:]] == ["review"] * 6


@pytest.mark.parametrize("end", [KeyboardInterrupt(), SystemExit(143), RuntimeError("a defect")])
def test_whatever_ends_a_run_its_rows_are_kept_and_the_same_command_goes_on(
    table: Path, watch: Watch, end: BaseException
) -> None:
    # given an unbroken run
    assert batch(table, output="whole.json") == 0
    # when another one ends in the middle
    watch(6, end)
    if isinstance(end, KeyboardInterrupt):
        assert batch(table) == 130
    else:
        with pytest.raises(type(end)):
            batch(table)
    # then both files have what was scored
    assert scores() == scores("whole.json")[:18]
    assert Path("out.csv").read_bytes() == b"".join(Path("whole.csv").read_bytes().splitlines(keepends=True)[:19])
    # and the next one scores the others alone
    again = watch()
    assert batch(table) == 0
    assert again.scored == IMAGES - 6
    for name in ("json", "csv"):
        assert Path(f"out.{name}").read_bytes() == Path(f"whole.{name}").read_bytes()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_run_with_both_files_written(table: Path, number: signal.Signals) -> None:
    # given a run that takes its time
    command = [sys.executable, "-m", "m3agiqa", "batch", str(table), "--model", "fake:0.2", "--batch-size", "1"]
    running = subprocess.Popen([*command, "--output", "out.json"], env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        eventually(lambda: Path("out.csv").is_file() and Path("out.csv").stat().st_size > 1_000, "rows are there")
        # when a signal ends it
        running.send_signal(number)
        assert running.wait(PATIENCE_S) == 128 + number
    finally:
        running.kill()
        running.wait()
    # then what was scored is in both, and no more files are there
    with Path("out.csv").open(newline="", encoding="utf-8") as file:
        assert scores() == [(row["image_path"], row["aspect"], float(row["score"])) for row in csv.DictReader(file)]
    assert 0 < len(scores()) < 3 * IMAGES
    assert sorted(path.name for path in table.parent.iterdir() if path.suffix != ".png") == [
        "in.csv",
        "out.csv",
        "out.json",
    ]


def test_two_do_not_write_into_one_file(table: Path, capsys: Output) -> None:
    with outputs.alone(Path("out.csv")):
        assert batch(table) == 1
    assert "another run writes to out.csv" in capsys.readouterr().err
    assert batch(table) == 0


def test_a_run_that_is_whole_scores_nothing_and_says_so(table: Path, watch: Watch, capsys: Output) -> None:
    assert batch(table) == 0
    Path("out.json").unlink()
    again = watch()
    assert batch(table) == 0
    assert again.scored == 0
    assert len(scores()) == 3 * IMAGES
    assert f"{IMAGES} of {IMAGES} rows stand in out.csv; remove it to score them anew" in capsys.readouterr().err


def test_a_file_that_was_cut_is_continued(table: Path, watch: Watch) -> None:
    assert batch(table) == 0
    whole = Path("out.csv").read_bytes()
    Path("out.csv").write_bytes(whole[: len(whole) // 2])
    again = watch()
    assert batch(table) == 0
    assert 0 < again.scored < IMAGES
    assert Path("out.csv").read_bytes() == whole


def test_rows_with_an_error_are_tried_again_and_stand_in_their_place(table: Path, watch: Watch) -> None:
    Path("3.png").rename("moved.png")
    assert batch(table) == 0
    assert [row[2] for row in scores()[9:12]] == [None] * 3

    Path("moved.png").rename("3.png")
    again = watch()
    assert batch(table) == 0

    assert again.scored == 1
    assert batch(table, output="whole.json") == 0
    assert scores() == scores("whole.json")
    assert Path("out.csv").read_bytes() == Path("whole.csv").read_bytes()


def test_rows_that_were_added_are_scored_too(table: Path, watch: Watch) -> None:
    assert batch(table) == 0
    header, rest = table.read_text().split("\n", 1)
    table.write_text(f"{header}\n0.png,new at the top\n{rest}11.png,new at the end\n")
    again = watch()
    assert batch(table) == 0
    assert again.scored == 2
    assert [row[0] for row in scores()[::3]] == ["0.png", *(row[0] for row in scores()[3:-3:3]), "11.png"]


def test_another_image_of_the_same_name_is_another_run(table: Path, capsys: Output) -> None:
    assert batch(table) == 0
    before = Path("out.csv").read_bytes()
    Image.new("RGB", (16, 16), "teal").save("7.png")
    assert batch(table) == 1
    assert "out.csv has a score of another 7.png; name another --output" in capsys.readouterr().err
    assert Path("out.csv").read_bytes() == before


def test_a_image_of_the_table_is_not_overwritten(table: Path, capsys: Output) -> None:
    before = Path("3.png").read_bytes()
    assert batch(table, output="3.png") == 1
    assert "it is read as" in capsys.readouterr().err
    assert Path("3.png").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        (("thing 0", "thing new"), (), "a score of 0.png, with another prompt now"),
        (("11.png", "10.png"), (), "a score of 11.png, with no row now"),
        (("", ""), ("--aspect", "quality"), "the aspects quality; correspondence; authenticity, not quality"),
        (("", ""), ("--policy", "observe"), "the policy default@"),
        (("", ""), ("--model", "mini", "--device", "cpu"), "the model fake@"),
    ],
)
def test_another_run_is_refused_with_what_differs(
    table: Path, capsys: Output, change: tuple[str, str], options: tuple[str, ...], words: str
) -> None:
    assert batch(table) == 0
    before = [Path(name).read_bytes() for name in ("out.json", "out.csv")]
    table.write_text(table.read_text().replace(*change) if change[0] else table.read_text())
    capsys.readouterr()

    assert batch(table, *options) == 1

    error = capsys.readouterr().err
    assert words in error
    assert "name another --output, or remove the file to begin anew" in error
    assert error.count("\n") == 1
    assert [Path(name).read_bytes() for name in ("out.json", "out.csv")] == before


def test_a_run_in_which_nothing_was_scored_binds_nobody(table: Path) -> None:
    for number in range(IMAGES):
        Path(f"{number}.png").rename(f"{number}.away")
    assert batch(table) == 1
    for number in range(IMAGES):
        Path(f"{number}.away").rename(f"{number}.png")
    assert batch(table, "--aspect", "quality", "--policy", "observe") == 0
    assert len(scores()) == IMAGES


def test_a_csv_file_of_something_else_is_not_touched(table: Path, capsys: Output) -> None:
    Path("out.csv").write_text("mine\n1\n")
    assert batch(table) == 1
    assert "was not written by `m3agiqa batch`" in capsys.readouterr().err
    assert Path("out.csv").read_text() == "mine\n1\n"


def test_where_there_is_no_room_for_the_json_file_the_csv_file_has_all(
    table: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = outputs.write

    def full(path: Path, text: str) -> None:
        if path.suffix == ".json":
            raise OutputError(f"cannot write {path}: No space left on device")
        write(path, text)

    with monkeypatch.context() as patched:
        patched.setattr(outputs, "write", full)
        assert batch(table) == 1
    assert "No space left on device; out.csv is whole, and the same command goes on" in capsys.readouterr().err
    assert batch(table) == 0
    assert len(scores()) == 3 * IMAGES


def test_a_strange_row_fails_alone(table: Path, capsys: Output) -> None:
    # given a row of each kind
    os.mkfifo("pipe.png")
    Path("loop.png").symlink_to("loop.png")
    strange = {
        b"no,quotes, around it": "request_invalid: line 14",
        b"one cell": "request_invalid: line 15",
        b'0.png,"not closed': "request_invalid: line 16",
        b"0.png,caf\xe9": "request_invalid: line 17",
        b"0.png,a\0b": "request_invalid: line 18",
        b"a photo of " * 40 + b",0.png": "fetch_error",
        b"data:image/png;base64" + b"A" * 400 + b",p": "fetch_error",
        b"https://host/a.png,p": "fetch_error: a https URL is no file",
        b",p": "fetch_error: the name of the image is empty",
        b".,p": "fetch_error",
        b"loop.png,p": "fetch_error",
        b"pipe.png,p": "fetch_error",
        b"in.csv,p": "image_unreadable",
        b"0.png," + b"x" * 9_000: "request_invalid: the prompt has 9000 characters",
    }
    with table.open("ab") as file:
        file.write(b"\n".join(strange) + b"\n0.png,sound\n")
    # when the table is scored
    assert batch(table, "--aspect", "quality") == 0
    # then each has its error, and the others have their scores
    records = json.loads(Path("out.json").read_text("utf-8"))
    assert [record["error"] is None for record in records] == [True] * IMAGES + [False] * len(strange) + [True]
    for record, words in zip(records[IMAGES:], strange.values(), strict=False):
        assert record["error"].startswith(words)
    error = capsys.readouterr().err
    assert "line 14: it has 3 cells" in error
    assert "2 more rows are wrong" in error


@pytest.mark.parametrize("output", ["", ".", "/", "pipe", "/dev/null", "in.csv", "in.json"])
def test_an_output_beside_which_no_table_can_be_written_is_wrong_usage(
    table: Path, capsys: Output, output: str
) -> None:
    os.mkfifo("pipe")
    before = table.read_bytes()
    assert batch(table, output=output) == 2
    assert "error: " in capsys.readouterr().err
    assert table.read_bytes() == before
