"""`m3agiqa download`: fetches a profile's weights ahead of time, and checks them."""

from __future__ import annotations

import argparse

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from m3agiqa.console import DONE

HELP = "Fetch a model's weights ahead of time, check them, and lock what was fetched."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", default="published", metavar="PROFILE", help="name under cfg/models, or a path (default: published)"
    )
    parser.add_argument(
        "--update", action="store_true", help="take the newest of every branch the profile names, not what is locked"
    )


def run(args: argparse.Namespace) -> int:
    from m3agiqa import hub
    from m3agiqa.profile import ModelProfile

    resolved = hub.resolve(ModelProfile.load(args.model), update=args.update, verify=True)
    table = Table("part", "source", "revision", "size", "path")
    for part in resolved.parts:
        table.add_row(part.name, part.source, part.revision[:16], decimal(part.size_bytes), str(part.path))
    console = Console()
    console.print(table)
    if resolved.lock is None:
        console.print("nothing to download: every part is on this disk")
    else:
        console.print(f"every file is here and as the hub lists it; locked in {resolved.lock}", soft_wrap=True)
    return DONE
