"""`m3agiqa-submit one` and `result`: submits an image, and prints a verdict."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from m3agiqa import console
from m3agiqa.client import Client
from m3agiqa.console import DONE, FAILED
from m3agiqa.contract import Verdict
from m3agiqa.quoting import quoted
from producers import cli_request
from producers.cli_dead import as_json as to_json
from producers.notes import note

#: Characters of a reason at most; those that workers write are shorter.
_REASON_CHARS = 4_000


def add_options(one: argparse.ArgumentParser) -> None:
    one.add_argument("image", metavar="IMAGE", help="a URL, or a file on this disk, which is uploaded")
    one.add_argument("--prompt", required=True, type=console.text, help="what the image was generated from")
    cli_request.add_options(one)
    one.add_argument("--request-id", help="default: a random one; one that was submitted before changes nothing")
    _add_waiting(one)
    one.set_defaults(run=_one)


def add_result_options(result: argparse.ArgumentParser) -> None:
    result.add_argument("request_id", metavar="ID")
    _add_waiting(result)
    result.set_defaults(run=_result)


def _add_waiting(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--wait", type=console.number(most=1e9), metavar="SECONDS", help="wait for the verdict so long, and print it"
    )
    parser.add_argument("--json", action="store_true", help="print the verdict as JSON")


def _one(client: Client, arguments: argparse.Namespace) -> int:
    fields = _image(arguments.image) | cli_request.fields(arguments) | {"request_id": arguments.request_id}
    if arguments.retry_failed and arguments.wait is not None:
        # To wait for the request's id alone would find the verdict that stands until a worker tries it anew.
        return _show(client.score(timeout=arguments.wait, **fields), as_json=arguments.json)
    request_id = client.submit(**fields)
    if arguments.wait is None:
        print(json.dumps({"request_id": request_id}) if arguments.json else request_id)
        return DONE
    note(f"submitted {request_id}")
    return _show(client.result(request_id, arguments.wait), as_json=arguments.json)


def _image(name: str) -> dict[str, Any]:
    is_url = "://" in name or name.lower().startswith("data:")
    return {"image_url": name} if is_url else {"image": Path(name)}


def _result(client: Client, arguments: argparse.Namespace) -> int:
    return _show(client.result(arguments.request_id, arguments.wait or 0), as_json=arguments.json)


def _show(verdict: Verdict, *, as_json: bool) -> int:
    if as_json:
        print(to_json(verdict))
    else:
        Console(soft_wrap=True).print(_table(verdict))
    return DONE if verdict.status == "scored" else FAILED


def _table(verdict: Verdict) -> Table:
    outcome = verdict.status if verdict.error is None else f"{verdict.error.code}: {verdict.error.message}"
    # As Text, as brackets in a failure's message are no markup.
    caption = Text(quoted(outcome, _REASON_CHARS))
    table = Table("aspect", "score", "rating", title=f"{verdict.request_id}: {verdict.decision}", caption=caption)
    for aspect, scored in verdict.aspects.items():
        table.add_row(aspect, f"{scored.score:.2f}", scored.rating)
    for reason in verdict.reasons:
        table.add_row("", "", Text(quoted(reason, _REASON_CHARS)))
    return table
