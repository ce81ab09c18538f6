from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from m3agiqa import outputs
from m3agiqa.cli import main
from m3agiqa.contract import Aspect
from m3agiqa.errors import ConfigError
from m3agiqa.train.data.dataset import load_data
from m3agiqa.train.data.descriptions import read_descriptions
from m3agiqa.train.teacher import asking
from m3agiqa.train.teacher.questions import BrokenAnswer, Template
from tests.m3agiqa.train.conftest import MakeData
from tests.m3agiqa.train.teacher.teacher_server import MODEL, TeacherServer
from tests.support import PATIENCE_S


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[TeacherServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(asking, "FIRST_PAUSE_S", 0.01)
    with TeacherServer() as server:
        yield server


@pytest.fixture
def data(make_data: MakeData, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six images, `thing 0` to `thing 5`, in a data set with two aspects."""
    for variable in ("GEMINI_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.setenv(variable, "one,two")
    monkeypatch.delenv("GOOGLE_API_KEY", raising=False)
    folder = make_data(6, mos_quality=lambda index: index % 5, mos_align=lambda index: (index + 2) % 5)
    table = folder / "data.csv"
    lines = table.read_text().splitlines()
    for number, line in enumerate(lines[1:]):
        name, _, rest = line.split(",", 2)
        lines[number + 1] = f"{name},thing {number} {{scores}},{rest}"
    table.write_text("\n".join(lines) + "\n")
    return folder


def command(data: Path, server: TeacherServer, teacher: str, *more: str) -> list[str]:
    base = server.url + ("/v1" if teacher == "openai" else "")
    return [
        *("describe", str(data), "--teacher", teacher, "--teacher-model", MODEL, "--base-url", base),
        *("--output", str(data / "d.jsonl"), "--yes", *more),
    ]


def lines(data: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (data / "d.jsonl").read_text().splitlines()]


both = pytest.mark.parametrize("teacher", ["gemini", "openai"])


@both
def test_every_image_is_described_for_every_aspect(data: Path, server: TeacherServer, teacher: str) -> None:
    assert main(command(data, server, teacher)) == 0

    names = sorted(entry.name for entry in load_data(data).entries)
    for aspect, text in ((Aspect.QUALITY, "It is sharp."), (Aspect.CORRESPONDENCE, "It fits.")):
        found = read_descriptions(data / "d.jsonl", aspect)
        assert sorted(found) == names
        assert set(found.values()) == {text}
    assert {line["teacher"] for line in lines(data)} == {f"{teacher}:{MODEL}"}
    # What was asked: the image itself, its prompt word for word, both scores; both keys took turns.
    assert server.times == {f"thing {number}": 1 for number in range(6)}
    [first] = [asked for asked in server.asked if asked.image == "thing 1"]
    assert first.size == (40, 30)
    assert "'thing 1 {scores}'" in first.text
    assert "quality: 1.00; alignment: 3.00" in first.text
    assert "on a scale from 0 (worst) to 5 (best)" in first.text
    assert {asked.key for asked in server.asked} == {"one", "two"}


@both
def test_limits_defects_refusals_and_broken_answers_are_got_over(
    data: Path, server: TeacherServer, teacher: str
) -> None:
    server.script |= {
        "thing 0": [429, 500, 503],
        "thing 1": ["broken", "refusal"],
        "thing 2": ["fenced"],
        "thing 3": ['{"quality_explanation": "x"}', "[]"],
        "thing 4": ["empty", 429],
    }

    assert main(command(data, server, teacher)) == 0

    assert len(lines(data)) == 12
    assert not any("error" in line for line in lines(data))
    assert [server.times[f"thing {number}"] for number in range(6)] == [4, 3, 1, 3, 3, 1]


@both
def test_what_stays_unanswered_is_recorded_and_not_asked_again_until_wanted(
    data: Path, server: TeacherServer, teacher: str, capsys: pytest.CaptureFixture[str]
) -> None:
    # given
    server.script |= {"thing 0": ["refusal"] * 3, "thing 1": ["broken"] * 3, "thing 2": [400]}
    (data / "images" / "gen1_003.png").write_bytes(b"no image")
    # when
    assert main(command(data, server, teacher)) == 0
    # then
    errors = {line["image"]: line["error"] for line in lines(data) if "error" in line}
    assert set(errors) == {"gen0_000.png", "gen1_001.png", "gen0_002.png", "gen1_003.png"}
    assert "refused" in errors["gen0_000.png"]
    assert errors["gen1_001.png"] == "the answer is not JSON"
    assert errors["gen0_002.png"] == "status 400"
    assert "not an image" in errors["gen1_003.png"]
    assert "2 of 6 images done, 4 given up" in capsys.readouterr().out
    assert server.times == {"thing 0": 3, "thing 1": 3, "thing 2": 1, "thing 4": 1, "thing 5": 1}

    assert main(command(data, server, teacher)) == 0
    assert len(server.asked) == 9
    assert main(command(data, server, teacher, "--retry-failed")) == 0
    assert len(server.asked) == 12
    assert len(read_descriptions(data / "d.jsonl", Aspect.QUALITY)) == 5


@both
def test_a_killed_run_continues_and_asks_nothing_twice(data: Path, server: TeacherServer, teacher: str) -> None:
    # given a run that is killed while one question hangs
    server.script["thing 3"] = ["hang"]
    arguments = command(data, server, teacher, "--concurrency", "1")
    process = subprocess.Popen([sys.executable, "-m", "m3agiqa", *arguments], stderr=subprocess.DEVNULL)
    try:
        assert server.hanging.wait(PATIENCE_S)
    finally:
        process.kill()
        process.wait()
    assert [line["image"] for line in lines(data)] == [f"gen{n % 2}_00{n}.png" for n in (0, 1, 2) for _ in range(2)]
    # and that left half a line
    with (data / "d.jsonl").open("a") as file:
        file.write('{"image": "gen1_0')
    # when
    assert main(arguments) == 0
    # then
    assert len(lines(data)) == 12
    assert server.times == {"thing 3": 2} | {f"thing {number}": 1 for number in (0, 1, 2, 4, 5)}


def test_an_answer_that_was_cut_inside_a_character_is_asked_for_again(data: Path, server: TeacherServer) -> None:
    # Given a file whose texts hold what others take for line ends, and whose last line ends inside a character
    assert main(command(data, server, "openai", "--limit", "2")) == 0
    path = data / "d.jsonl"
    text = path.read_text(encoding="utf-8").replace("It is sharp.", "It is\u2028sharp \u732b.")
    path.write_bytes(text.encode()[: text.encode().rindex("\u732b".encode()) + 1])
    asked = len(server.asked)
    # When the run goes on
    assert main(command(data, server, "openai", "--limit", "2")) == 0
    # Then that image alone is asked about again
    assert len(server.asked) == asked + 1
    assert len(read_descriptions(path, Aspect.QUALITY)) == 2
    assert "It is\u2028sharp \u732b." in read_descriptions(path, Aspect.QUALITY).values()


@pytest.mark.parametrize("change", ["image", "score", "teacher", "template"])
def test_answers_to_other_questions_are_not_taken_over(
    data: Path, server: TeacherServer, capsys: pytest.CaptureFixture[str], change: str
) -> None:
    assert main(command(data, server, "openai", "--limit", "2")) == 0
    before = (data / "d.jsonl").read_bytes()
    arguments = command(data, server, "openai", "--limit", "2")
    if change == "image":
        Image.new("RGB", (8, 8)).save(data / "images" / "gen0_000.png")
    elif change == "score":
        arguments += ["--label-scale", "0.5"]
    elif change == "teacher":
        arguments = command(data, server, "gemini", "--limit", "2")
    else:
        arguments += ["--template", "teacher-one-aspect"]

    assert main(arguments) == 1

    assert "was asked about with another image, prompt, score, template or teacher" in capsys.readouterr().err
    assert (data / "d.jsonl").read_bytes() == before


def test_another_file_without_line_ends_is_left_alone(data: Path, server: TeacherServer) -> None:
    (data / "d.jsonl").write_text("my notes")

    assert main(command(data, server, "openai")) == 1

    assert (data / "d.jsonl").read_text() == "my notes"


def test_two_do_not_ask_into_one_file(data: Path, server: TeacherServer, capsys: pytest.CaptureFixture[str]) -> None:
    with outputs.alone(data / "d.jsonl"):
        assert main(command(data, server, "openai")) == 1
    assert "another run writes to" in capsys.readouterr().err
    assert not server.asked


def test_a_signal_does_not_wait_for_an_answer(data: Path, server: TeacherServer) -> None:
    # Given a run whose question hangs
    server.script["thing 3"] = ["hang"]
    arguments = command(data, server, "openai", "--concurrency", "1")
    process = subprocess.Popen([sys.executable, "-m", "m3agiqa", *arguments], stderr=subprocess.DEVNULL)
    try:
        assert server.hanging.wait(PATIENCE_S)
        # When it is told to end
        process.terminate()
        # Then it does, with what was answered
        assert process.wait(PATIENCE_S) == 128 + signal.SIGTERM
    finally:
        process.kill()
        process.wait()
    assert len(lines(data)) == 6


@both
def test_a_refused_key_is_left_out_and_none_left_is_an_error(
    data: Path, server: TeacherServer, teacher: str, capsys: pytest.CaptureFixture[str]
) -> None:
    server.refused = {"one"}
    assert main(command(data, server, teacher, "--limit", "3")) == 0
    assert len(lines(data)) == 6

    server.refused = {"one", "two"}
    assert main(command(data, server, teacher)) == 1
    err = capsys.readouterr().err
    assert "the teacher refused every API key" in err
    assert "two" not in err.partition("error:")[2]


@both
def test_a_model_that_is_not_there_ends_the_run(
    data: Path, server: TeacherServer, teacher: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = command(data, server, teacher, "--concurrency", "1")
    arguments[arguments.index(MODEL)] = "sparrow"

    assert main(arguments) == 1

    assert f"{teacher}:sparrow: there is no such model" in capsys.readouterr().err
    assert len(server.asked) < 6


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--teacher", "gemini"], "--teacher needs --teacher-model"),
        (["--model", "mini"], "--model needs --aspect and --conversations"),
    ],
)
def test_each_way_names_what_it_needs(
    data: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["describe", str(data), "--output", str(data / "d.jsonl"), *arguments]) == 2
    assert words in capsys.readouterr().err


def test_nothing_starts_without_keys_or_consent(
    data: Path, server: TeacherServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = command(data, server, "gemini", "--price-in", "1000", "--price-out", "2000")
    arguments.remove("--yes")

    assert main(arguments) == 2

    err = capsys.readouterr().err
    assert "6 images to ask eagle-1 about: roughly" in err
    assert "in the prices' currency" in err
    assert "add --yes" in err
    monkeypatch.delenv("GEMINI_API_KEY")
    assert main(arguments) == 1
    assert "set GEMINI_API_KEY or GOOGLE_API_KEY" in capsys.readouterr().err
    assert not server.asked


def test_an_image_in_another_format_is_sent_as_png(data: Path, server: TeacherServer) -> None:
    path = data / "images" / "gen0_000.png"
    Image.new("RGB", (33, 22), "red").save(path, "GIF")

    assert main(command(data, server, "openai", "--limit", "1")) == 0

    assert server.asked[0].size == (33, 22)


@pytest.mark.parametrize(("count", "name"), [(1, "one-aspect"), (2, "two-aspects"), (3, "three-aspects")])
def test_there_is_a_template_for_every_number_of_aspects(count: int, name: str) -> None:
    template = Template.load(f"teacher-{name}")

    assert template.aspects == tuple(Aspect)[:count]
    text = template.question("a cat", dict.fromkeys(Aspect, 3.14159))
    assert "3.14" in text
    assert "'a cat'" in text
    assert "{" not in text.partition("example about another image:")[0]
    assert set(template.explanations(json.dumps(template.example))) == set(template.aspects)
    for answer, words in {
        '{"quality_explanation": " "}': "has no quality_explanation",
        '{"quality_explanation": "\\ud83d"}': "half of a character",
        "[" * 100_000: "not JSON",
    }.items():
        with pytest.raises(BrokenAnswer, match=words):
            template.explanations(answer)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"text": "no places"}, "must hold {prompt}, {scores}, {example}"),
        ({"example": {"quality": "x"}}, "keys must be quality_explanation"),
        ({"aspects": []}, "aspects"),
    ],
)
def test_a_wrong_template_is_refused(tmp_path: Path, change: dict[str, object], words: str) -> None:
    content = {"aspects": ["quality"], "text": "{prompt}{scores}{example}", "example": {"quality_explanation": "x"}}
    (tmp_path / "t.yaml").write_text(json.dumps(content | change))

    with pytest.raises(ConfigError, match=words):
        Template.load(str(tmp_path / "t.yaml"))
