"""Every command with every path option set to what no command expects: one line, an exit code, and nothing lost.

Options are found in the parsers, so that a new one is swept too. What would train or ask is stopped when it begins.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from m3agiqa import cli, inputs, outputs
from m3agiqa.errors import CheckpointError
from producers import cli as producers_cli
from producers.cli_file import place
from tests.m3agiqa.report.made import some_images, write_batch, write_labels
from tests.support import png

#: Options that take a name or a path, and those that take no path.
NAMES_OR_PATHS = {
    *(
        "lengths",
        "model",
        "profile",
        "policy",
        "old",
        "new",
        "config",
        "template",
        "results",
        "prompts",
        "source",
        "first",
        "second",
    ),
}
NO_PATHS = {
    *("aspect", "base_url", "callback_url", "device", "group", "id", "ids", "image", "label", "ratio"),
    *("redis_url", "request_id", "s3_uri", "teacher_model", "images", "prompt", "policy of a request"),
    *("only_policy", "batch_id", "whole_tenant", "tenant"),
}
#: Options whose file a command may change.
OUTPUTS = {"rejected", "output", "predictions", "plot", "run_folder", "cache", "csv", "flips", "page"}

THINGS = ("missing", "folder", "loop", "full", "fifo", "long", "bytes", "empty", "other")

#: A call of each command that would do its work, with {lab} for what it reads and {out} for what it writes.
CALLS = {
    "score": "{lab}/images/0.png --prompt x --model fake",
    "batch": "{lab}/batch.csv --output {out}/b.json --model fake",
    "download": "--model {lab}/profile.yaml",
    "doctor": "",
    "data check": "{lab}",
    "data conversations": "{lab} --aspect quality --descriptions {lab}/said.jsonl --by picture --output {out}/c",
    "data distort": "{lab} --config mini-distortions --descriptions {lab}/said.jsonl --output {out}/d",
    "data swap": "{lab} --config mini-swaps --descriptions {lab}/said.jsonl --output {out}/w",
    "data stand-in": "{lab} --aspect quality --descriptions {lab}/said.jsonl --label mos_align --output {out}/s.jsonl",
    "describe": "{lab} --teacher openai --teacher-model m --output {out}/t.jsonl",
    "describe --model": "{lab} --model mini --aspect quality --conversations {lab}/train.json --output {out}/r.json",
    "pretrain": "{lab} --run {out}/p --conversations {lab}/train.json --device cpu",
    "finetune": "{lab} --config mini-adapter --run {out}/f --device cpu",
    "predict": "{lab} --aspect quality --model fake --output {out}/q.csv",
    "evaluate": "{lab} --aspect quality --model fake --predictions {out}/e.csv --plot {out}/e.png",
    "plot": "{lab}/predictions.csv --output {out}/p.png",
    "train": "{lab} --aspect quality --config {lab}/head.yaml --run {out}/h --device cpu",
    "bench": "--device cpu",
    "golden": "{lab}/profile.yaml --device cpu",
    "probe": "fake {lab}/batch.csv",
    "report": "{lab}/verdicts.json --output {out}/page",
    "policy check": "default",
    "policy diff": "default observe {lab}/verdicts.json --flips {out}/f.jsonl",
    "calibrate": "{lab}/judged.json {lab}/labels.csv --catch 0.5 --output {out}/k.yaml --plot {out}/k.png",
    "translate": "{lab}/judged.json {lab}/judged.json --output {out}/t.yaml",
    "compare": "{lab}/judged.json {lab}/judged.json --plot {out}/m.png",
    "redecide": "{lab}/verdicts.json --policy observe --output {out}/r.jsonl",
}
SUBMIT_CALLS = dict.fromkeys(("file", "csv"), "{lab}/batch.csv --rejected {out}/r.jsonl")


@dataclass(frozen=True)
class Swept:
    """One path option of one command."""

    program: str
    command: str
    option: argparse.Action

    def __str__(self) -> str:
        return f"{self.command} {self.name}"

    @property
    def name(self) -> str:
        return self.option.option_strings[0] if self.option.option_strings else self.option.dest

    def arguments(self, lab: Path, out: Path, value: str) -> list[str]:
        calls = CALLS if self.program == "m3agiqa" else SUBMIT_CALLS
        whole = f"{self.command.partition(' --')[0]} {calls[self.command]}"
        words = whole.format(lab=lab, out=out).split()
        start = len(self.command.partition(" --")[0].split())
        if not self.option.option_strings:
            return [*words[:start], value, *words[start + 1 :]]
        for spelling in self.option.option_strings:
            if spelling in words:
                place = words.index(spelling)
                return [*words[: place + 1], value, *words[place + 2 :]]
        return [*words, self.option.option_strings[0], value]


def commands(parser: argparse.ArgumentParser, name: str = "") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    inner = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not inner:
        yield name, parser
    for action in inner:
        for word, subparser in action.choices.items():
            yield from commands(subparser, f"{name} {word}".strip())


def is_path(option: argparse.Action) -> bool:
    return option.type is Path or (option.dest in NAMES_OR_PATHS and option.type is None)


def swept() -> Iterator[Swept]:
    for name, parser in commands(cli.parser()):
        for option in filter(is_path, parser._actions):
            if name != "describe" or option.dest not in ("conversations", "model"):
                yield Swept("m3agiqa", name, option)
            if name == "describe" and option.dest != "template":
                yield Swept("m3agiqa", "describe --model", option)
    for name, parser in commands(producers_cli.parser()):
        for option in parser._actions:
            if option.type in (Path, place):
                yield Swept("m3agiqa-submit", name, option)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set, and a file of each kind that a command reads."""
    folder = tmp_path_factory.mktemp("lab")
    (folder / "images").mkdir()
    for number in range(4):
        (folder / "images" / f"{number}.png").write_bytes(png(40 * number))
    rows = "".join(f"{number}.png,a thing {number},{number},{number}\n" for number in range(4))
    (folder / "data.csv").write_text("name,prompt,mos_quality,mos_align\n" + rows)
    (folder / "batch.csv").write_text("image_path,prompt\nimages/0.png,a thing\n")
    said = [
        {"image": f"{n}.png", "aspect": "quality", "prompt": "x", "mos": n, "description": "It is fine."}
        for n in range(4)
    ]
    (folder / "said.jsonl").write_text("".join(json.dumps(line) + "\n" for line in said))
    turns = [{"role": role, "content": "x"} for role in ("user", "assistant") * 2]
    talks = [{"id": str(n), "image": f"{n}.png", "conversations": turns} for n in range(4)]
    (folder / "train.json").write_text(json.dumps(talks))
    head = {"model": "mini", "split": {"by": "image", "ratio": [1, 1]}, "head": {"width": 64, "blocks": 2}}
    (folder / "head.yaml").write_text(yaml.safe_dump(head))
    mini = yaml.safe_load((Path(cli.__file__).parents[2] / "cfg" / "models" / "mini.yaml").read_text())
    (folder / "profile.yaml").write_text(yaml.safe_dump(mini))
    call = ["predict", str(folder), "--aspect", "quality", "--model", "fake", "--output"]
    assert cli.main([*call, str(folder / "predictions.csv")]) == 0
    call = ["batch", str(folder / "batch.csv"), "--aspect", "all", "--model", "fake", "--output"]
    assert cli.main([*call, str(folder / "verdicts.json")]) == 0
    rows, labels = some_images(40)
    write_batch(folder / "judged.json", rows)
    write_labels(folder / "labels.csv", labels)
    return folder


def make(thing: str, folder: Path, ending: str) -> str:
    """The path of what is put in an option's place."""
    folder.mkdir()
    path = folder / f"x{ending}"
    if thing == "folder":
        path.mkdir()
        (path / "kept.txt").write_text("kept")
    elif thing == "loop":
        path.symlink_to(path)
    elif thing == "full":
        return "/dev/full"
    elif thing == "fifo":
        os.mkfifo(path)
    elif thing == "long":
        return str(folder / ("x" * 300 + ending))
    elif thing == "bytes":
        path = folder / os.fsdecode(b"\xff" + ending.encode())
        path.write_bytes(b"kept")
    elif thing == "empty":
        path.write_bytes(b"")
    elif thing == "other":
        path.write_bytes(b"\x00\xff\xfe\n{[\x80 kept")
    return str(path)


def contents(folder: Path) -> dict[str, str]:
    """Everything in a folder: its kind, and a file's digest."""
    found = {}
    for path in sorted(folder.rglob("*")):
        kind = path.lstat().st_mode
        found[str(path)] = (
            hashlib.sha256(path.read_bytes()).hexdigest() if stat.S_ISREG(kind) else str(stat.S_IFMT(kind))
        )
    return found


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes long is refused when it begins, and nobody is waited for."""

    def begin(*_: object, **__: object) -> None:
        raise CheckpointError("this would take long")

    from m3agiqa.train.adapter import trainee
    from m3agiqa.train.base import pretrain
    from m3agiqa.train.head import states, training

    monkeypatch.setattr(training.Frozen, "load", begin)
    monkeypatch.setattr(pretrain, "Material", begin)
    monkeypatch.setattr(trainee.Trainee, "load", begin)
    monkeypatch.setattr(states, "load_frozen", begin)
    monkeypatch.setattr(outputs, "READER_S", 0.0)
    monkeypatch.setattr(inputs, "WRITER_S", 0.0)
    monkeypatch.setenv("OPENAI_API_KEY", "x")


@pytest.mark.usefixtures("stopped")
@pytest.mark.parametrize("thing", THINGS)
@pytest.mark.parametrize("option", list(swept()), ids=str)
def test_a_path_that_will_not_do_is_one_line_and_nothing_is_lost(
    lab: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], option: Swept, thing: str
) -> None:
    # Given inputs that are fine but for one
    out = tmp_path / "out"
    out.mkdir()
    value = make(thing, tmp_path / "things", ending=".png" if "plot" in str(option) else ".yaml")
    before, beside = contents(lab), contents(tmp_path / "things")
    main = cli.main if option.program == "m3agiqa" else producers_cli.main

    # When the command is called
    try:
        code = main(option.arguments(lab, out, value))
    except SystemExit as error:
        code = int(str(error.code))

    # Then it ends with a code that is documented, and a line if it failed
    captured = capfd.readouterr()
    assert code in (0, 1, 2)
    assert "Traceback" not in captured.err
    assert captured.err.count("error: ") <= 1
    assert code == 0 or captured.out or "error: " in captured.err
    # And nothing is changed but what it was told to write
    assert contents(lab) == before
    after = contents(tmp_path / "things")
    if code != 0 or option.option.dest not in OUTPUTS:
        assert {path: after.get(path) for path in beside} == beside
    assert Path("/dev/full").is_char_device()


#: Numbers that no command expects.
NUMBERS = ("-1", "0", "nan", "inf", "1e999", "9" * 5_000, "9" * 12, "x", "")


def numbers() -> Iterator[Swept]:
    """Options that take a number, and those that take several in a text."""
    for name, parser in commands(cli.parser()):
        for option in parser._actions:
            if option.type not in (None, Path) or option.dest == "ratio":
                yield Swept("m3agiqa", name, option)


@pytest.mark.usefixtures("stopped")
@pytest.mark.parametrize("option", list(numbers()), ids=str)
def test_a_number_that_will_not_do_is_one_line(
    lab: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], option: Swept
) -> None:
    if option.name == "--prompt":
        pytest.skip("any text is a prompt")
    for count, value in enumerate(NUMBERS):
        out = tmp_path / str(count)
        out.mkdir()
        try:
            code = cli.main(option.arguments(lab, out, value))
        except SystemExit as error:
            code = int(str(error.code))
        captured = capfd.readouterr()
        assert code in (0, 1, 2, 3), value
        assert "Traceback" not in captured.err
        assert code == 0 or captured.out or captured.err.count("error: ") == 1, value


def test_no_option_is_forgotten() -> None:
    for parser in (cli.parser(), producers_cli.parser()):
        for name, command in commands(parser):
            assert name in CALLS or name in SUBMIT_CALLS or parser.prog == "m3agiqa-submit", name
            for option in command._actions:
                if option.type is None and option.nargs != 0 and option.choices is None:
                    assert option.dest in NO_PATHS | NAMES_OR_PATHS, f"{name} {option.dest}: is it a path?"
