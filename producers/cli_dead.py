"""`m3agiqa-submit dead`: look at what workers gave up, put it back, or forget it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from typing import Any

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from m3agiqa.errors import RequestInvalid
from m3agiqa.quoting import quoted
from producers.client import Client
from producers.dead import DeadLetter
from producers.message import MAX_MESSAGE_BYTES

#: As on the whole command line.
_OK, _FAILED, _WRONG = 0, 1, 2

#: Characters of a reason, or of an event: ours are shorter.
_REASON_CHARS = 4_000


def add_commands(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    listed = commands.add_parser("list", help="list the dead letters, the newest first")
    listed.add_argument("--json", action="store_true", help="one JSON object a line, with the message itself")
    listed.set_defaults(run=_list)

    shown = commands.add_parser("show", help="print one with its history and, as JSON, its message")
    shown.add_argument("id", metavar="ID")
    shown.add_argument("--json", action="store_true", help="one JSON object")
    shown.set_defaults(run=_show)

    for name, help_, run in (
        ("replay", "put messages back on their queue, with all their attempts", _replay),
        ("drop", "forget messages", _drop),
    ):
        changed = commands.add_parser(name, help=help_)
        which = changed.add_mutually_exclusive_group(required=True)
        which.add_argument("ids", nargs="*", default=[], metavar="ID")
        which.add_argument("--all", action="store_true", help="every dead letter there is")
        changed.set_defaults(run=run)


def _list(client: Client, arguments: argparse.Namespace) -> int:
    # The id whole, even on a narrow terminal: the other commands want it.
    table = Table(Column("id", no_wrap=True, min_width=32), "died at", "why")
    for letter in client.dead_letters():
        if arguments.json:
            print(letter.model_dump_json())
        else:
            table.add_row(
                letter.id,
                f"{letter.died_at:%m-%d %H:%M}",
                Text(quoted(f"{letter.code}: {letter.reason}", _REASON_CHARS)),
            )
    if not arguments.json:
        Console(soft_wrap=True).print(table)
    return _OK


def _show(client: Client, arguments: argparse.Namespace) -> int:
    letter = client.dead_letter(arguments.id)
    if arguments.json:
        print(letter.model_dump_json())
        return _OK
    table = Table(show_header=False)
    for name, value in letter.model_dump(mode="json", exclude={"history"}).items():
        # Whole, but without what would speak to the terminal: anybody can push anything on a queue.
        table.add_row(name, Text(quoted(value, MAX_MESSAGE_BYTES)))
    table.add_row("history", Text("\n".join(quoted(event, _REASON_CHARS) for event in letter.history)))
    Console(soft_wrap=True).print(table)
    return _OK


def _replay(client: Client, arguments: argparse.Namespace) -> int:
    return _change(client, arguments, client.replay)


def _drop(client: Client, arguments: argparse.Namespace) -> int:
    return _change(client, arguments, client.drop)


def _change(client: Client, arguments: argparse.Namespace, change: Callable[[DeadLetter], Any]) -> int:
    letters: Iterable[DeadLetter]
    if arguments.all:
        # What can never be replayed stays where it is.
        letters = [letter for letter in client.dead_letters() if not (letter.cut and change == client.replay)]
    else:
        letters = [client.dead_letter(letter_id) for letter_id in arguments.ids]
    code = _OK
    for letter in letters:
        try:
            changed = change(letter)
        except RequestInvalid as error:
            print(f"error: {letter.id}: {error}", file=sys.stderr)
            code = _WRONG
            continue
        if changed:
            print(letter.id)
        else:
            code = code or _FAILED
    return code
