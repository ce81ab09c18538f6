"""How a command ends: by an error, by a signal, and with a stdout that is closed or full."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from PIL import Image

from m3agiqa import console
from m3agiqa.cli import main as m3agiqa_main
from m3agiqa.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    M3AGIQAError,
    OutputError,
    PromptTooLong,
    RequestInvalid,
    UsageError,
)
from producers.cli import main as submit_main
from tests.support import ROOT

#: A command that says when it has begun, keeps what it did when it ends, and has a thread that would run on.
WORKING = """
import sys, threading, time
from m3agiqa import console
def command():
    threading.Thread(target=time.sleep, args=(600,)).start()
    try:
        print("begun", flush=True)
        time.sleep(600)
    finally:
        print("kept", flush=True)
        {after}
sys.exit(console.run(command, as_process=True))
"""
COMMANDS = ([sys.executable, "-m", "m3agiqa"], [sys.executable, "-m", "producers.cli"])


def start(after: str = "pass", **options: object) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", WORKING.format(after=after)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,  # type: ignore[call-overload]
    )
    assert process.stdout.readline() == "begun\n"
    return process  # type: ignore[no-any-return]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_command_in_order_and_waits_for_no_thread(number: signal.Signals) -> None:
    # Given a command at work, with a thread that sleeps
    process = start()

    # When a signal comes, twice at once as `timeout` sends it
    process.send_signal(number)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)

    # Then what was done is kept, and the exit code tells the signal
    assert (out, err, process.returncode) == ("kept\n", "", 128 + number)


def test_a_second_signal_ends_at_once() -> None:
    process = start(after='time.sleep(1); print("waiting", flush=True); time.sleep(600)')
    process.send_signal(signal.SIGTERM)
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(2)] == ["kept\n", "waiting\n"]

    process.send_signal(signal.SIGINT)

    assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == -signal.SIGINT


def test_nohup_is_obeyed() -> None:
    # Given a command that was started with SIGHUP ignored
    process = start(preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))

    # When the terminal goes, and later somebody ends it
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)

    # Then it was the second that ended it
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM


def test_a_call_of_main_changes_no_handler_and_gives_the_exit_code() -> None:
    def command() -> int:
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGTERM)
    assert console.run(command, as_process=False) == 130
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("--by what?"), 2),
        (RequestInvalid("prompt: missing"), 2),
        (PromptTooLong("no room"), 2),
        (DataError("line 2: no number"), 1),
        (OutputError("the disk is full"), 1),
        (ConfigError("no such profile"), 1),
        (CheckpointError("damaged"), 1),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, M3AGIQAError) else str(value),
)
def test_an_error_of_ours_is_one_line_and_an_exit_code(
    error: M3AGIQAError, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def command() -> int:
        raise error

    assert console.run(command, as_process=False) == code
    assert capsys.readouterr() == ("", f"error: {error}\n")


def test_the_exit_codes_are_those_of_the_page_on_failures() -> None:
    page = (ROOT / "docs" / "failures.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| (\d+) \| ", page, re.MULTILINE)
    assert listed == [str(code) for code in (console.DONE, console.FAILED, console.USAGE, console.ATTENTION)]
    assert f"{console.INTERRUPTED} by Ctrl-C" in page


@pytest.mark.parametrize(("name", "command"), [("m3agiqa", m3agiqa_main), ("m3agiqa-submit", submit_main)])
def test_both_commands_tell_a_bad_table_from_wrong_usage(
    name: str, command: Callable[[list[str]], int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Given a table without the columns that either command needs
    table = tmp_path / "a.csv"
    table.write_text("x,y\n1,2\n")
    wrong = {"m3agiqa": ["batch", str(table), "--output", "x.csv"], "m3agiqa-submit": ["dead", "show"]}
    bad = {
        "m3agiqa": ["batch", str(table), "--output", str(tmp_path / "x.json")],
        "m3agiqa-submit": ["csv", str(table)],
    }

    # Then the table is a failure, and only a wrong option is wrong usage
    assert command(bad[name]) == console.FAILED
    assert "must have the columns" in capsys.readouterr().err
    try:
        code: object = command(wrong[name])
    except SystemExit as ended_:
        code = ended_.code
    assert code == console.USAGE


def ended(arguments: Sequence[str], redirection: str, **environment: str) -> subprocess.CompletedProcess[str]:
    script = f'{{ "$@"; }} {redirection}; exit ${{PIPESTATUS[0]}}'
    return subprocess.run(
        ["bash", "-c", script, "bash", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )


@pytest.mark.parametrize("command", COMMANDS, ids=["m3agiqa", "m3agiqa-submit"])
@pytest.mark.parametrize(
    ("redirection", "code", "said"),
    [
        ("| true", 1, ""),
        (">/dev/full", 1, "error: stdout: No space left on device\n"),
        (">&-", 0, ""),
    ],
)
def test_what_cannot_be_printed_is_no_traceback(command: list[str], redirection: str, code: int, said: str) -> None:
    done = ended([*command, "--version"], redirection, PYTHONUNBUFFERED="")
    # A reader that has gone may have read all before.
    assert done.returncode == code or (redirection == "| true" and done.returncode == 0)
    assert done.stderr == said


@pytest.mark.parametrize("command", COMMANDS, ids=["m3agiqa", "m3agiqa-submit"])
def test_the_version_is_shown(command: list[str]) -> None:
    done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("m3agiqa")
    assert done.stdout.strip()[-1].isdigit()
    assert done.stderr == ""


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "grün.png"
    Image.new("RGB", (8, 8)).save(path)
    return path


@pytest.mark.parametrize(
    "environment",
    [
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1"},
    ],
    ids=lambda environment: next(iter(environment)),
)
def test_json_is_json_in_any_encoding(image: Path, environment: dict[str, str]) -> None:
    # Given words that stdout cannot encode, in what is printed
    arguments = ["score", str(image.with_name("猫.png")), "--prompt", "猫", "--model", "fake"]

    # When they are printed as JSON, and for people
    as_json = ended([*COMMANDS[0], *arguments, "--json"], "", **environment)
    shown = ended([*COMMANDS[0], *arguments], "", **environment)

    # Then there is JSON in ASCII, and lines, and no traceback
    assert json.loads(as_json.stdout)["error"]["message"].endswith(".png: No such file or directory")
    assert as_json.stdout.isascii()
    assert as_json.stderr == shown.stderr == ""
    assert "fetch_error" in shown.stdout
    assert (as_json.returncode, shown.returncode) == (1, 1)
