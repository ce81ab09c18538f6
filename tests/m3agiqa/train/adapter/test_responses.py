"""`describe --model` with the bundled model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from m3agiqa.cli import main
from m3agiqa.contract import Aspect, Failure
from m3agiqa.engine.scoring import Engine
from m3agiqa.files import read_job
from m3agiqa.jobs import Job
from m3agiqa.profile import ModelProfile
from m3agiqa.scorer import Scorer, Scores
from m3agiqa.train.adapter import responses
from m3agiqa.train.adapter.responses import answer
from m3agiqa.train.data.conversations import ConversationRecord, read_conversations, write_conversations
from m3agiqa.train.data.dataset import load_data
from m3agiqa.train.data.descriptions import read_descriptions
from tests.m3agiqa.train.conftest import MakeData


@pytest.fixture
def data(make_data: MakeData) -> Path:
    folder = make_data(4)
    asked = ModelProfile.load("mini").aspects[Aspect.QUALITY]
    made = [
        ConversationRecord.for_training(entry.name, entry.name, entry.prompt, "The teacher's.", 2, asked)
        for entry in load_data(folder).entries
    ]
    write_conversations(folder / "train.json", made)
    return folder


def command(data: Path) -> list[str]:
    return [
        *("describe", str(data), "--aspect", "quality", "--conversations", str(data / "train.json")),
        *("--model", "mini", "--output", str(data / "own.json"), "--device", "cpu"),
    ]


def test_answers_are_the_models_own_and_heads_learn_from_them(data: Path) -> None:
    assert main(command(data)) == 0

    items = read_conversations(data / "own.json")
    assert [item.image for item in items] == [entry.name for entry in load_data(data).entries]
    found = read_descriptions(data / "own.json", Aspect.QUALITY)
    # What scoring writes of the same images, in the same batch: another one rounds otherwise.
    entries = load_data(data).entries
    outcomes = Scorer.load("mini", "cpu").score(
        [read_job(data / "images" / entry.name, entry.prompt, (Aspect.QUALITY,)) for entry in entries]
    )
    written = [outcome.aspects[Aspect.QUALITY].description for outcome in outcomes if isinstance(outcome, Scores)]
    assert [found[entry.name] for entry in entries] == written
    assert all(item.response_1 is not None for item in items)
    assert {item.description for item in items} == {"The teacher's."}


def test_a_killed_run_continues(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # given
    assert main(command(data)) == 0
    whole = json.loads((data / "own.json").read_text())
    for item in whole[2:]:
        del item["response_0"], item["response_1"]
    (data / "own.json").write_text(json.dumps(whole))
    asked: list[int] = []

    def counted(engine: Engine, jobs: Sequence[Job]) -> list[tuple[str, str] | Failure]:
        asked.append(len(jobs))
        return answer(engine, jobs)

    monkeypatch.setattr(responses, "answer", counted)
    # when
    assert main(command(data)) == 0
    # then
    assert asked == [2]
    assert all(item.response_1 is not None for item in read_conversations(data / "own.json"))


def test_what_fails_stays_unanswered_and_is_said(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "images" / "gen0_000.png").write_bytes(b"no image")

    assert main(command(data)) == 0

    captured = capsys.readouterr()
    assert "3 answered, 1 failed" in captured.out
    assert "gen0_000.png: not an image" in captured.err
    assert read_conversations(data / "own.json")[0].response_0 is None


def test_a_conversation_of_another_data_set_is_refused(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    items = json.loads((data / "train.json").read_text())
    items[0]["image"] = "stray.png"
    (data / "train.json").write_text(json.dumps(items))

    assert main(command(data)) == 1
    assert "stray.png of" in capsys.readouterr().err


@pytest.mark.parametrize("change", ["conversation", "image"])
def test_answers_about_something_else_are_not_taken_over(
    data: Path, capsys: pytest.CaptureFixture[str], change: str
) -> None:
    # given
    assert main(command(data)) == 0
    before = (data / "own.json").read_bytes()
    # when
    if change == "conversation":
        text = (data / "train.json").read_text()
        (data / "train.json").write_text(text.replace("The teacher's.", "Another's."))
    else:
        image = data / "images" / "gen0_000.png"
        image.write_bytes(image.read_bytes() + b"more")
    # then
    assert main(command(data)) == 1
    assert "name another file" in capsys.readouterr().err
    assert (data / "own.json").read_bytes() == before


def test_the_conversations_are_not_written_over(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (data / "train.json").read_bytes()
    (data / "link.json").symlink_to("train.json")
    arguments = command(data)
    arguments[arguments.index(str(data / "own.json"))] = str(data / "link.json")

    assert main(arguments) == 1

    assert "it is read as" in capsys.readouterr().err
    assert (data / "train.json").read_bytes() == before
