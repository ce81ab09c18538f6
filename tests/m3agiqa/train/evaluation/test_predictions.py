"""`predict` and `evaluate` with the fake model, whose scores hang on image and prompt alone."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from m3agiqa import outputs
from m3agiqa.cli import local, main
from m3agiqa.contract import Aspect, Failure
from m3agiqa.errors import DataError
from m3agiqa.jobs import Job, Scores
from m3agiqa.profile import ModelProfile
from m3agiqa.scorer import FakeScorer
from m3agiqa.train.data.conversations import ConversationRecord, write_conversations
from m3agiqa.train.data.dataset import load_data
from m3agiqa.train.evaluation.metrics import srcc
from m3agiqa.train.evaluation.predictions import COLUMNS, read_predictions
from tests.m3agiqa.train.conftest import MakeData

FAKE = ("--aspect", "quality", "--model", "fake")


def no_constants(name: str) -> float:
    raise AssertionError(f"{name} is no JSON")


def evaluated(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> dict[str, object]:
    capsys.readouterr()
    assert main(["evaluate", *map(str, arguments), "--json"]) == 0
    result: dict[str, object] = json.loads(capsys.readouterr().out, parse_constant=no_constants)
    return result


def test_evaluate_prints_json_and_nothing_else(make_data: MakeData, capsys: pytest.CaptureFixture[str]) -> None:
    # given
    folder = make_data(20)
    assert main(["predict", str(folder), *FAKE, "--output", str(folder / "p.csv")]) == 0
    rows = read_predictions(folder / "p.csv")
    # when
    result = evaluated(capsys, folder, *FAKE, "--group", "prefix")
    # then
    assert result["aspect"] == "quality"
    assert result["model"] == "fake"
    assert result["trained"] is False
    assert (result["n"], result["failed"], result["unlabelled"]) == (20, 0, 0)
    for name in ("srcc", "plcc", "plcc_logistic", "krcc", "srcc_within_groups"):
        low, high = result[f"{name}_ci95"]  # type: ignore[misc]
        assert low <= result[name] <= high
    data = load_data(folder)
    scores = np.array([row.score for row in rows])
    labels = np.array([entry.label("mos_quality") for entry in data.entries])
    assert result["srcc"] == pytest.approx(srcc(scores, labels))
    assert set(result["groups"]) == {"gen0", "gen1"}  # type: ignore[call-overload]


def test_evaluate_tells_what_descriptions_were_copied(make_data: MakeData, capsys: pytest.CaptureFixture[str]) -> None:
    # given images that are all described alike, in fourteen words of which a text has the first nine
    folder = make_data(4)
    assert main(["predict", str(folder), *FAKE, "--output", str(folder / "p.csv")]) == 0
    [words] = {tuple((row.description or "").split()) for row in read_predictions(folder / "p.csv")}
    assert len(words) == 14
    asked = ModelProfile.load("mini").aspects[Aspect.QUALITY]
    text = ConversationRecord.for_training("x", "x.png", "x", " ".join(words[:9]).upper(), 2, asked)
    write_conversations(folder / "train.json", [text])
    # when
    result = evaluated(capsys, folder, *FAKE, "--texts", folder / "train.json")
    # then
    assert (result["descriptions"], result["descriptions_distinct"]) == (4, 1)
    assert result["grams_in_texts"] == pytest.approx(2 / 7)
    assert main(["evaluate", str(folder), *FAKE, "--texts", str(folder / "train.json")]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "1 of 4 descriptions are distinct, 28.6 % of their 8-grams stand in the texts" in shown


def test_a_part_of_the_images_is_named_by_conversation_files(
    make_data: MakeData, capsys: pytest.CaptureFixture[str]
) -> None:
    # given a file that names two of the images, and one that is not there
    folder = make_data(9, mos=lambda index: index % 5)
    names = ("gen0_000.png", "gen1_003.png", "gone.png")
    asked = ModelProfile.load("mini").aspects[Aspect.QUALITY]
    write_conversations(
        folder / "val.json", [ConversationRecord.for_training(name, name, "x", "x", 2, asked) for name in names]
    )
    # when
    result = evaluated(capsys, folder, *FAKE, "--only", folder / "val.json")
    # then
    assert (result["n"], result["failed"]) == (2, 0)
    # also where predictions of all are there
    assert main(["predict", str(folder), *FAKE, "--output", str(folder / "all.csv")]) == 0
    part = evaluated(capsys, folder, *FAKE, "--only", folder / "val.json", "--predictions", folder / "all.csv")
    assert (part["n"], part["srcc"]) == (2, result["srcc"])
    assert len(read_predictions(folder / "all.csv")) == 9
    # and by another label, which is the data set's and not the file's
    scaled = evaluated(capsys, folder, *FAKE, "--label-scale", "0.5", "--predictions", folder / "all.csv")
    assert scaled["n"] == 9
    assert [row.label for row in read_predictions(folder / "all.csv")] == [index % 5 / 2 for index in range(9)]
    write_conversations(folder / "other.json", [ConversationRecord.for_training("x", "gone.png", "x", "x", 2, asked)])
    assert main(["evaluate", str(folder), *FAKE, "--only", str(folder / "other.json")]) == 1
    assert "has none of the 1 images" in capsys.readouterr().err


def test_the_label_is_found_by_aspect_or_named(make_data: MakeData, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_data(9, mos_align=lambda index: index % 5, beauty=lambda index: -index % 5)
    arguments = (folder, "--model", "fake", "--aspect", "correspondence")

    found = evaluated(capsys, *arguments)
    named = evaluated(capsys, *arguments, "--label", "mos_align")
    other = evaluated(capsys, *arguments, "--label", "beauty")

    assert found == named
    assert found["srcc"] != other["srcc"]
    assert main(["evaluate", str(folder), *FAKE]) == 1
    assert "no column mos_quality or mos" in capsys.readouterr().err
    assert main(["evaluate", str(folder), "--aspect", "correspondence", "--model", "fake", "--group", "style"]) == 1
    assert "no column style" in capsys.readouterr().err


def test_a_bad_row_is_a_row_with_an_error(make_data: MakeData, capsys: pytest.CaptureFixture[str]) -> None:
    # given a missing image, a broken one, and one without a score of its own
    folder = make_data(10, mos=lambda index: "" if index == 2 else index % 5)
    (folder / "images" / "gen0_000.png").unlink()
    (folder / "images" / "gen1_001.png").write_bytes(b"no image")
    # when
    result = evaluated(capsys, folder, *FAKE, "--predictions", folder / "p.csv")
    # then
    assert (result["n"], result["failed"], result["unlabelled"]) == (7, 2, 1)
    rows = read_predictions(folder / "p.csv")
    assert len(rows) == 10
    assert [row.error and row.error.partition(":")[0] for row in rows[:3]] == ["fetch_error", "image_unreadable", None]
    assert rows[0].score is rows[0].rating is None
    assert rows[2].score is not None
    assert rows[2].label is None


def test_nothing_scored_is_a_failure_in_valid_json(make_data: MakeData, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_data(4)
    for path in (folder / "images").iterdir():
        path.unlink()

    assert main(["evaluate", str(folder), *FAKE, "--json"]) == 1

    result = json.loads(capsys.readouterr().out, parse_constant=no_constants)
    assert (result["n"], result["failed"], result["srcc"]) == (0, 4, None)
    assert "at least 3" in result["reasons"]["srcc"]


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (lambda index: "", "there is nothing to compare: 0 images failed, 4 have no label"),
        (lambda index: f"{index},5", "line 2: mos is '0,5', which is no number; decimals follow a point"),
        (lambda index: "nan", "line 2: mos is 'nan'"),
    ],
)
def test_labels_that_cannot_be_compared_are_a_failure_that_says_why(
    make_data: MakeData, capsys: pytest.CaptureFixture[str], labels: Callable[[int], str], words: str
) -> None:
    folder = make_data(4, mos=labels)

    assert main(["evaluate", str(folder), *FAKE, "--json"]) == 1

    assert words in capsys.readouterr().err


def test_names_without_a_generator_are_in_no_group(make_data: MakeData, capsys: pytest.CaptureFixture[str]) -> None:
    # given names of which none has an underscore
    folder = make_data(8)
    table = folder / "data.csv"
    for path in (folder / "images").iterdir():
        path.rename(path.with_name(path.name.replace("_", "")))
    table.write_text(table.read_text().replace("gen0_", "gen0").replace("gen1_", "gen1"))
    # then there are no groups
    result = evaluated(capsys, folder, *FAKE, "--group", "prefix")
    assert result["groups"] == {}
    assert result["reasons"]["srcc_within_groups"] == "no image is in a group"  # type: ignore[index]
    # and where one has an underscore, the others are together
    (folder / "images" / "gen0000.png").rename(folder / "images" / "gen0_000.png")
    table.write_text(table.read_text().replace("gen0000", "gen0_000"))
    result = evaluated(capsys, folder, *FAKE, "--group", "prefix")
    assert {name: of["n"] for name, of in result["groups"].items()} == {"(none)": 7, "gen0": 1}  # type: ignore[attr-defined]


@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_a_table_with_a_wrong_row_is_refused(
    make_data: MakeData, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    folder = make_data(4)
    with (folder / "data.csv").open("a", encoding="utf-8") as file:
        file.write("x.png,a cat, on a mat,3\n")
    output = ["--output", str(folder / "p.csv")] if command == "predict" else []

    assert main([command, str(folder), *FAKE, *output]) == 1

    assert "`m3agiqa data check` lists" in capsys.readouterr().err
    assert not (folder / "p.csv").exists()


class Interrupted(FakeScorer):
    """Scores some images, then the process is killed."""

    def __init__(self, allowed: int) -> None:
        super().__init__()
        self.allowed = allowed
        self.scored = 0

    def score(self, jobs: Sequence[Job]) -> list[Scores | Failure]:
        if self.scored + len(jobs) > self.allowed:
            raise KeyboardInterrupt
        self.scored += len(jobs)
        return super().score(jobs)


def test_a_killed_run_continues_and_ends_with_the_same_rows(
    make_data: MakeData, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # given an unbroken run, and one that was killed in the middle of a row
    folder = make_data(20)
    command = ["predict", str(folder), *FAKE, "--output"]
    assert main([*command, str(folder / "whole.csv")]) == 0
    broken = folder / "broken.csv"
    monkeypatch.setattr(local, "load_scorer", lambda *args, **kwargs: Interrupted(8))
    assert main([*command, str(broken)]) == 130
    text = broken.read_text()
    assert len(text.splitlines()) == 9
    broken.write_text(text[:-15])
    # when it goes on
    again = Interrupted(13)
    monkeypatch.setattr(local, "load_scorer", lambda *args, **kwargs: again)
    assert main([*command, str(broken)]) == 0
    # then it scored only what was missing
    assert again.scored == 13
    assert sorted(broken.read_text().splitlines()) == sorted((folder / "whole.csv").read_text().splitlines())


def test_rows_with_an_error_are_tried_again(make_data: MakeData) -> None:
    folder = make_data(5)
    path = folder / "images" / "gen0_002.png"
    content = path.read_bytes()
    path.unlink()
    command = ["predict", str(folder), *FAKE, "--output", str(folder / "p.csv")]
    main(command)
    assert sum(row.error is not None for row in read_predictions(folder / "p.csv")) == 1

    path.write_bytes(content)
    main(command)

    rows = read_predictions(folder / "p.csv")
    assert sorted(row.name for row in rows) == sorted(entry.name for entry in load_data(folder).entries)
    assert all(row.error is None for row in rows)


def test_a_file_of_another_model_or_aspect_is_left_alone(
    make_data: MakeData, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_data(4, mos_quality=lambda index: index, mos_align=lambda index: index)
    output = folder / "p.csv"
    assert main(["predict", str(folder), *FAKE, "--output", str(output)]) == 0
    before = output.read_bytes()

    assert (
        main(["predict", str(folder), "--aspect", Aspect.CORRESPONDENCE, "--model", "fake", "--output", str(output)])
        == 1
    )

    assert "name another file" in capsys.readouterr().err
    assert output.read_bytes() == before
    with pytest.raises(DataError, match="was not written by `m3agiqa predict`"):
        read_predictions(folder / "data.csv")


def test_predictions_survive_text_of_every_kind(make_data: MakeData) -> None:
    folder = make_data(3)
    with (folder / "data.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "prompt", "mos"])
        writer.writerow(["gen0_000.png", 'a "cat",\nwith lines — и ещё', 3])

    assert main(["predict", str(folder), *FAKE, "--output", str(folder / "p.csv")]) == 0

    [row] = read_predictions(folder / "p.csv")
    assert row.prompt == 'a "cat",\nwith lines — и ещё'
    assert (folder / "p.csv").read_text().splitlines()[0] == ",".join(COLUMNS)


def test_people_read_a_table(make_data: MakeData, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_data(9)

    assert main(["evaluate", str(folder), *FAKE, "--group", "prefix", "--plot", str(folder / "p.png")]) == 0

    out = capsys.readouterr().out
    for words in ("quality by fake, untrained", "SRCC within groups", "9 images, 0 failed", "gen1"):
        assert words in out
    assert (folder / "p.png").read_bytes().startswith(b"\x89PNG")


def test_a_score_of_another_image_is_not_taken_over(make_data: MakeData, capsys: pytest.CaptureFixture[str]) -> None:
    # Given predictions, and another image in the place of one
    folder = make_data(4)
    command = ["predict", str(folder), *FAKE, "--output", str(folder / "p.csv")]
    assert main(command) == 0
    before = (folder / "p.csv").read_bytes()
    Image.new("RGB", (8, 8)).save(folder / "images" / "gen0_000.png")

    # Then they are refused, and stay
    assert main(command) == 1
    assert "holds a score of another gen0_000.png; name another file" in capsys.readouterr().err
    assert (folder / "p.csv").read_bytes() == before


def test_two_do_not_predict_into_one_file(make_data: MakeData, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_data(4)
    with outputs.alone(folder / "p.csv"):
        assert main(["predict", str(folder), *FAKE, "--output", str(folder / "p.csv")]) == 1
    assert "another run writes to" in capsys.readouterr().err


def test_numbers_are_printed_before_a_plot_that_fails(
    make_data: MakeData, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_data(4)
    result = evaluated(capsys, folder, *FAKE)

    assert main(["evaluate", str(folder), *FAKE, "--json", "--plot", "/dev/full"]) == 1

    captured = capsys.readouterr()
    assert json.loads(captured.out) == result
    assert captured.err.count("error: cannot write /dev/full: No space left on device") == 1
    # What can be known before is said before.
    assert main(["evaluate", str(folder), *FAKE, "--json", "--plot", str(folder / "p.xyz")]) == 2
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("named", [False, True])
def test_a_folder_may_have_an_equals_sign(make_data: MakeData, named: bool, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_data(4)
    run = folder / "lr=1e-5"
    run.mkdir()
    assert main(["predict", str(folder), *FAKE, "--output", str(run / "q.csv")]) == 0

    assert main(["plot", f"{'mine=' if named else ''}{run / 'q.csv'}", "--output", str(folder / "p.png")]) == 0
    assert main(["plot", f"mine={folder / 'none.csv'}", "--output", str(folder / "p.png")]) == 1
    assert "none.csv: No such file" in capsys.readouterr().err
    # And what is read is not drawn over
    before = (run / "q.csv").read_bytes()
    (run / "q.png").symlink_to("q.csv")
    assert main(["plot", str(run / "q.csv"), "--output", str(run / "q.png")]) == 1
    assert (run / "q.csv").read_bytes() == before
