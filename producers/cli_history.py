"""`m3agiqa-submit state`: where a request is, and its whole way there."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

from m3agiqa.client import Client
from m3agiqa.console import DONE
from m3agiqa.errors import ResultTimeout
from m3agiqa.quoting import quoted

#: Characters of an event at most; those that workers write are shorter.
_EVENT_CHARS = 4_000
#: An event as the ledger keeps it: its Unix time, and what happened. Seconds have ten digits until the year 2286.
_EVENT = re.compile(r"([0-9]{10}(?:\.[0-9]{1,6})?) (.*)")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("request_id", metavar="ID")
    parser.add_argument(
        "--history", action="store_true", help="and all that happened to it: time, seconds since the event before, what"
    )
    parser.set_defaults(run=_state)


def _state(client: Client, arguments: argparse.Namespace) -> int:
    state = client.state(arguments.request_id)
    if state is None:
        raise ResultTimeout(f"no request {arguments.request_id} is known; those settled long ago are forgotten")
    print(state)
    for line in _lines(client.history(arguments.request_id) if arguments.history else ()):
        print(quoted(line, _EVENT_CHARS))
    return DONE


def _lines(events: Iterable[str]) -> Iterator[str]:
    """Events for a reader. One that cannot be read, as the oldest one where the ledger cut it, is shown as it is."""
    before = None
    for event in events:
        told = _EVENT.fullmatch(event)
        if told is None:
            yield event
            continue
        at = float(told[1])
        since = "" if before is None else f"{at - before:+.3f} s"
        yield f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S.%f}"[:-3] + f" UTC {since:>14}  {told[2]}"
        before = at
