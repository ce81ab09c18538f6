"""The extension for AUTOMATIC1111 and Forge, in a stand-in for them, with the real command."""

from __future__ import annotations

import ast
import io
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.judge import Judge
from tests.m3agiqa.client.test_gate import inline
from tests.producers.integrations.webui import Webui, modules
from tests.support import ROOT

FILE = ROOT / "producers" / "integrations" / "webui" / "scripts" / "m3agiqa_gate.py"
THREE = ["accept one", "reject two", "accept three"]


@pytest.fixture
def webui(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Webui:
    command = tmp_path / "m3agiqa-submit"
    command.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m producers.cli "$@"\n')
    command.chmod(0o755)
    monkeypatch.setenv("GATE_COMMAND", str(command))
    monkeypatch.setenv("M3AGIQA_REDIS_URL", redis_url)
    for name, module in modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    (tmp_path / "outputs").mkdir()
    made = Webui(tmp_path / "outputs")
    made.load(FILE)
    return made


def file(number: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), (number, 0, 0)).save(out, "PNG")
    return out.getvalue()


def test_its_code_runs_in_the_webuis_own_python() -> None:
    # Python 3.10, and without a package of ours or pydantic, of which the webui pins an old one
    source = FILE.read_text()
    ast.parse(source, feature_version=(3, 10))
    assert not {"m3agiqa", "producers", "pydantic"} & {
        line.split()[1] for line in source.splitlines() if "import " in line
    }


def test_it_asks_nobody_until_the_user_wants_it(webui: Webui, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATE_COMMAND", "/nonexistent")
    done = webui.generate(THREE, *(control.value for control in webui.controls))
    assert len(done.images) == 3
    assert webui.files() == ["00000", "00001", "00002"]
    assert done.comments == ""


@pytest.mark.parametrize("mask", [False, True])
def test_rejected_images_are_filed_away_with_their_grid(webui: Webui, judge: Judge, mask: bool) -> None:
    # given a webui that puts a grid in front, and may put masks behind the images
    webui.grid, webui.mask = True, mask
    # when three images are generated of which one is rejected
    done = webui.generate(THREE, True)
    # then each was asked for with its own prompt
    assert judge.images() == {prompt: inline(file(number)) for number, prompt in enumerate(THREE)}
    # and the others are shown, with what belongs to them
    assert [image.getpixel((0, 0)) for image in done.images if image.mode == "RGB"] == [(0, 0, 0), (2, 0, 0)]
    assert len(done.images) == (4 if mask else 2)
    assert done.infotexts == ["accept one\nSteps: 1", "accept three\nSteps: 1"]
    assert (done.all_prompts, done.all_seeds, done.index_of_first_image) == (["accept one", "accept three"], [0, 2], 0)
    assert done.comments == "image 2: quality 0.50 < reject_below 1.50"
    # and the files are there, those that are not shown in a folder
    assert webui.files() == ["00000", "00002"]
    assert webui.rejected() == ["00001", "grid"]
    assert len(list(webui.folder.glob("rejected/*.txt"))) == 2
    # and the next image of that number keeps it
    webui.generate(THREE, True)
    assert webui.rejected() == ["00001", "00001", "grid", "grid"]
    assert webui.errors == []


@pytest.mark.usefixtures("judge")
def test_the_user_chooses_what_becomes_of_the_others(webui: Webui, caplog: pytest.LogCaptureFixture) -> None:
    webui.save = False
    prompts = ["review a cat", "fail a cat", "--json", "accept " + "x" * 9_000, "accept \0"]

    def kept(*arguments: object) -> list[str]:
        return [text.partition("\n")[0] for text in webui.generate(prompts, True, *arguments).infotexts]

    # one whose prompt is too long is for a person to see
    assert kept("keep", "drop", 0.1) == [*prompts[1:3], prompts[4]]
    assert "an image has no score; keep it: " in caplog.text
    assert kept("drop", "keep", 0.1) == [prompts[0], prompts[3]]
    assert "no score in time" in caplog.text
    assert "no verdict for" in caplog.text
    assert "xxxx" not in caplog.text


@pytest.mark.parametrize("command", ["/nonexistent", "/bin/false", "/bin/echo"])
def test_nothing_is_lost_because_something_of_ours_broke(
    webui: Webui, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATE_COMMAND", command)
    done = webui.generate(THREE, True)
    assert len(done.images) == 3
    assert webui.files() == ["00000", "00001", "00002"]
    assert "image 1: " in done.comments


def test_nothing_is_lost_while_redis_is_away(webui: Webui, unused_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("M3AGIQA_REDIS_URL", f"redis://127.0.0.1:{unused_port}")
    done = webui.generate(THREE[:1], True)
    assert len(done.images) == 1
    assert "cannot be reached" in done.comments
