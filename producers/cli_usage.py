"""`m3agiqa-submit usage`: what tenants used, by day."""

from __future__ import annotations

import argparse
from datetime import date

from rich.console import Console
from rich.table import Table

from m3agiqa.client import Client, Usage
from m3agiqa.console import DONE
from producers.cli_dead import as_json

_COUNTED = ("admitted", "accept", "review", "reject", "failed")


def add_options(parser: argparse.ArgumentParser) -> None:
    # Without a default of its own, so that --tenant in front of the command counts as well.
    parser.add_argument("--tenant", default=argparse.SUPPRESS, metavar="TENANT", help="of this tenant alone")
    parser.add_argument("--from", dest="first", type=_day, metavar="DATE", help="default: 29 days before --to")
    parser.add_argument("--to", dest="last", type=_day, metavar="DATE", help="the last day, in UTC (default: today)")
    parser.add_argument("--json", action="store_true", help="a JSON object a line, for each tenant and day")
    parser.set_defaults(run=_usage)


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no day such as 2026-01-31") from None


def _usage(client: Client, arguments: argparse.Namespace) -> int:
    found = client.usage(arguments.first, arguments.last)
    if arguments.json:
        for one in found:
            print(as_json(one))
    else:
        Console(soft_wrap=True).print(_table(found))
    return DONE


def _table(found: list[Usage]) -> Table:
    table = Table("day", "tenant", *_COUNTED)
    for one in found:
        table.add_row(one.day.isoformat(), one.tenant or "", *(f"{getattr(one, name):,}" for name in _COUNTED))
    return table
