"""`m3agiqa-submit dead`: shows what workers gave up, puts it back, or forgets it."""

from __future__ import annotations

import argparse
import json

from pydantic import BaseModel
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from m3agiqa.client import Client
from m3agiqa.console import DONE, FAILED, exit_code, say
from m3agiqa.errors import UsageError
from m3agiqa.queue.inbox import MAX_ENTRY_BYTES
from m3agiqa.quoting import quoted

#: Characters of a reason or an event at most; those that workers write are shorter.
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


def as_json(model: BaseModel) -> str:
    """`model` as JSON on one line in ASCII, so that no text of a stranger can control a terminal."""
    return json.dumps(model.model_dump(mode="json"))


def _list(client: Client, arguments: argparse.Namespace) -> int:
    # The whole id, even on a narrow terminal: other commands take it.
    table = Table(Column("id", no_wrap=True, min_width=32), "died at", "why")
    for letter in client.dead_letters():
        if arguments.json:
            print(as_json(letter))
        else:
            table.add_row(
                quoted(letter.id),
                f"{letter.died_at:%m-%d %H:%M}",
                Text(quoted(f"{letter.code}: {letter.reason}", _REASON_CHARS)),
            )
    if not arguments.json:
        Console(soft_wrap=True).print(table)
    return DONE


def _show(client: Client, arguments: argparse.Namespace) -> int:
    letter = client.dead_letter(arguments.id)
    if arguments.json:
        print(as_json(letter))
        return DONE
    table = Table(show_header=False)
    for name, value in letter.model_dump(mode="json", exclude={"history"}).items():
        # Escaped, as any producer can push anything on an inbox, also what controls a terminal.
        table.add_row(name, Text(quoted(value, MAX_ENTRY_BYTES)))
    table.add_row("history", Text("\n".join(quoted(event, _REASON_CHARS) for event in letter.history)))
    Console(soft_wrap=True).print(table)
    return DONE


def _replay(client: Client, arguments: argparse.Namespace) -> int:
    if arguments.all:
        # Letters that were not kept whole can never be replayed.
        letters = [letter for letter in client.dead_letters() if not letter.cut]
    else:
        letters = [client.dead_letter(letter_id) for letter_id in arguments.ids]
    code = DONE
    for letter in letters:
        try:
            code = _told(letter.id, client.replay(letter)) or code
        except UsageError as error:
            say(f"{letter.id}: {error}")
            code = exit_code(error)
    return code


def _drop(client: Client, arguments: argparse.Namespace) -> int:
    ids = client.dead_letter_ids() if arguments.all else arguments.ids
    codes = [_told(letter_id, client.drop(letter_id)) for letter_id in ids]
    return max(codes, default=DONE)


def _told(letter_id: str, changed: bool) -> int:
    if changed:
        print(quoted(letter_id))
    return DONE if changed else FAILED
