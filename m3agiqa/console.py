"""How every command begins and ends: exit codes, errors as one line, signals, and a stdout that may be closed or full.

It imports only the standard library and our errors, so that every command can begin here.
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from types import FrameType
from typing import NoReturn, TextIO

from m3agiqa.errors import M3AGIQAError, RequestInvalid, UsageError

#: Exit codes of both commands, `m3agiqa` and `m3agiqa-submit`. A signal N ends one with 128 + N.
DONE, FAILED, USAGE, ATTENTION, INTERRUPTED = 0, 1, 2, 3, 128 + signal.SIGINT
#: Errors that mean wrong usage; every other one means that the command failed.
_WRONG_USAGE = (UsageError, RequestInvalid)

#: Seconds within which a second signal counts as the first: `timeout` and a terminal that closes send it twice.
_ECHO_S = 0.3


class Ended(KeyboardInterrupt):
    """A signal asks the process to end; as an exception, so that `finally` blocks keep what was done."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


def run(command: Callable[[], int], *, as_process: bool) -> int:
    """Run a command and return its exit code. An error of ours, and a disk or pipe that is full, is one line on stderr.

    Args:
        command: returns an exit code, or raises.
        as_process: this process was started for this command alone. SIGTERM, SIGHUP and Ctrl-C raise `Ended` in it,
            what stdout cannot encode is escaped, and after a signal the process waits for no thread.
    """
    if as_process:
        _open_streams()
        _end_in_order()
    try:
        code = command()
    except KeyboardInterrupt as error:
        code = getattr(error, "exit_code", INTERRUPTED)
        if as_process and any(not thread.daemon for thread in threading.enumerate()[1:]):
            _leave(code)
    except M3AGIQAError as error:
        say(str(error))
        code = exit_code(error)
    except BrokenPipeError:  # the reader of stdout has seen enough
        code = FAILED
    except OSError as error:
        say(reason(error))
        code = FAILED
    except SystemExit as error:  # of argparse, whose help may be what cannot be printed
        if not as_process:
            raise
        code = error.code if isinstance(error.code, int) else FAILED
    return (code if _flushed() else code or FAILED) if as_process else code


def exit_code(error: M3AGIQAError) -> int:
    """The exit code of a command that `error` ends."""
    return USAGE if isinstance(error, _WRONG_USAGE) else FAILED


def say(text: str) -> None:
    """Print one line of error for the person who started the command."""
    print(f"error: {text}", file=sys.stderr)


def reason(error: OSError) -> str:
    """What the system said in a few words, after the file's name where there is one."""
    words = error.strerror or str(error) or type(error).__name__
    return words if error.filename is None else f"{error.filename}: {words}"


def text(value: str) -> str:
    """The type of an argument that is text in UTF-8, whatever the locale of the command is."""
    try:
        return os.fsencode(value).decode("utf-8")
    except UnicodeError:
        raise argparse.ArgumentTypeError(f"{value!r} is not UTF-8") from None


def whole(least: int = 1, most: int = 2**31 - 1) -> Callable[[str], int]:
    """The type of an argument that is a whole number from `least` to `most`."""

    def parse(value: str) -> int:
        try:
            number = int(value)
        except ValueError:
            number = least - 1
        if not least <= number <= most:
            raise argparse.ArgumentTypeError(f"{value!r} is not a whole number from {least} to {most}")
        return number

    return parse


def number(*, least: float = 0.0, most: float = 1e12, is_open: bool = False) -> Callable[[str], float]:
    """The type of an argument that is a number from `least` to `most`, or above `least` if `is_open`."""

    def parse(value: str) -> float:
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not least <= number <= most or (is_open and number == least):
            low = f"above {least:g}" if is_open else f"from {least:g}"
            raise argparse.ArgumentTypeError(f"{value!r} is not a number {low} to {most:g}")
        return number

    return parse


def add_version(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        try:
            known = version("m3agiqa")
        except PackageNotFoundError:
            known = "(not installed, run from its source)"
        print(f"{parser.prog} {known}")
        parser.exit()


def _open_streams() -> None:
    # A closed stream becomes the null device: else the next file that is opened takes its number, and gets its text.
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: PTH123, SIM115
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def _end_in_order() -> None:
    asked_at: float | None = None

    def end(number: int, _: FrameType | None) -> None:
        nonlocal asked_at
        now = time.monotonic()
        if asked_at is None:
            asked_at = now
            raise Ended(number)
        if now - asked_at > _ECHO_S:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        # `nohup` and `&` have a signal ignored: it stays so.
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, end)


def _flushed() -> bool:
    """Flush stdout and stderr. Returns whether both took all; else says why, and discards the rest, so that the
    interpreter's own flush does not fail.
    """
    well = True
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            well = False
            _discard(stream)
            if stream is sys.stdout and not isinstance(error, BrokenPipeError):
                say(f"stdout: {reason(error)}")
    return well


def _discard(stream: TextIO) -> None:
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, stream.fileno())
    os.close(nothing)


def _leave(code: int) -> NoReturn:
    """End without waiting for threads: the next run does again what they were doing."""
    _flushed()
    os._exit(code)
