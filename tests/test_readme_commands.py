"""The commands on the README and the other pages are there, and take the options that they are given."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import flower.options  # noqa: F401  it defines tornado's options
import pytest
from celery.bin.celery import celery
from tornado.options import options as tornado_options

from m3agiqa import cli as library_cli
from m3agiqa import config
from producers import cli as producers_cli
from tests.pages import README, SPANS, commands_in_blocks, read, shell_lines
from tests.support import ROOT

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
PROGRAMS = {"m3agiqa": library_cli.main, "m3agiqa-submit": producers_cli.main}
#: Programs of others, whose options nothing here can check.
OTHERS = {"cp", "curl", "docker", "export", "gate.sh", "kubectl", "mkdir", "pip", "redis-cli"}


def commands() -> Iterator[tuple[str, list[str], list[str]]]:
    """Program, subcommands and options of every use of our command lines."""
    for line in shell_lines():
        for found in re.finditer(r"(?:^|[\s/;|])(m3agiqa(?:-submit)?)((?: [a-z][a-z-]*)+)(.*)", line):
            program, words, rest = found.groups()
            depth = 2 if words.split()[0] in ("data", "dead", "policy") else 1
            yield program, words.split()[:depth], re.findall(r"(?<!\S)--[a-z][a-z-]*", rest)


@pytest.mark.parametrize(("program", "words", "options"), list(commands()))
def test_every_command_and_option_exists(
    program: str, words: list[str], options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    known = ""
    for arguments in ([*words, "--help"], ["--help"]):
        with pytest.raises(SystemExit) as ended:
            PROGRAMS[program](arguments)
        assert ended.value.code == 0
        known += capsys.readouterr().out
    assert set(options) <= set(re.findall(r"--[a-z][a-z-]*", known))


def test_commands_were_found() -> None:
    found = {(program, words[0]) for program, words, _ in commands()}
    assert {("m3agiqa", "score"), ("m3agiqa", "batch"), ("m3agiqa-submit", "csv"), ("m3agiqa-submit", "dead")} <= found


def test_every_command_is_one_that_something_here_looks_at() -> None:
    names = {Path(words[0]).name for words in commands_in_blocks()}
    assert {"m3agiqa", "m3agiqa-submit", "make", "celery", "python"} <= names
    assert names <= {*PROGRAMS, *OTHERS, "make", "celery", "python"}


def test_every_make_target_and_variable_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", MAKEFILE, re.MULTILINE))
    used = [re.match(r"make ([a-z]+)(?: ([A-Z_]+)=)?", line) for line in shell_lines()]
    assert {match[1] for match in used if match} <= targets
    assert {"demo", "test"} <= set(re.findall(r"^make ([a-z]+)$", read(README), re.MULTILINE))
    for match in used:
        assert match is None or match[2] is None or f"\n{match[2]} ?=" in MAKEFILE


def modules_run() -> dict[str, set[str]]:
    """Options of every module that is run."""
    found: dict[str, set[str]] = {}
    for line in shell_lines():
        for module, rest in re.findall(r"python -m ([\w.]+)([^#|]*)", line):
            found.setdefault(module, set()).update(re.findall(r"(?<!\S)--[a-z][a-z-]*", rest))
    return found


@pytest.mark.parametrize(("module", "options"), modules_run().items())
def test_every_module_that_is_run_exists_and_takes_its_options(module: str, options: set[str]) -> None:
    assert importlib.util.find_spec(module)
    if options:
        command = [sys.executable, "-m", module, "--help"]
        shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120).stdout
        assert options <= set(re.findall(r"--[a-z][a-z-]*", shown))


def test_modules_were_found() -> None:
    assert {"worker.settings", "worker.ops.health", "worker.load", "worker.load.hostile"} <= modules_run().keys()


def test_celery_takes_what_it_is_given() -> None:
    given = [re.split(r"\s+", line.partition("bin/celery ")[2]) for line in shell_lines() if "bin/celery " in line]
    given += [span.split()[1:] for span in SPANS if span.startswith("celery -")]
    assert len(given) > 3
    for first, app, command, *rest in given:
        assert (first, app) == ("-A", "worker.app")
        options = {option.partition("=")[0] for option in rest if option.startswith("-")}
        known = {option for parameter in celery.commands[command].params for option in parameter.opts}
        if command == "flower":
            known = {f"--{option}" for option in tornado_options}
        assert options <= known


def test_every_extra_that_is_installed_exists() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    named = {word[2:-1] for words in commands_in_blocks() for word in words if re.fullmatch(r"\.\[\w+\]", word)}
    assert {"worker", "deliver"} <= named <= extras.keys()


def test_every_configuration_that_an_option_names_exists() -> None:
    kinds = {"model": "models", "policy": "policies", "config": "train", "template": "train"}
    lines = "\n".join(shell_lines())
    named = {(kinds[option], name) for option, name in re.findall(r"--(\w+) ([a-z][\w-]*)", lines) if option in kinds}
    assert {("models", "published"), ("train", "agiqa-3k")} <= named
    assert [(kind, name) for kind, name in named if name not in config.names(kind)] == []
