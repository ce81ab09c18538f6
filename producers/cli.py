"""`m3agiqa-submit`: submits images to the queue, and shows their verdicts."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import cast

from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from m3agiqa import console
from m3agiqa.client import MAX_QUEUED, Client, Fields, refuse_unknown_policy
from m3agiqa.console import DONE, FAILED
from m3agiqa.contract import Aspect, ScoreRequest, Verdict
from m3agiqa.errors import ConfigError, DataError, QueueFull, RequestInvalid, UsageError
from m3agiqa.fields import is_tenant
from m3agiqa.paths import is_file
from m3agiqa.queue import keys
from m3agiqa.queue.address import DEFAULT, PASSWORD_VARIABLE, URL_VARIABLE, USERNAME_VARIABLE, Address
from m3agiqa.quoting import quoted
from m3agiqa.tables import Row, open_table
from producers import cli_dead, cli_erase, cli_history, cli_status, cli_usage, cli_webhook

_COLUMNS = ("image_url", "prompt", "callback_url", "s3_uri", "policy", "priority", "request_id", "batch_id")
#: Characters of a reason at most; those that workers write are shorter.
_REASON_CHARS = 4_000
#: Rows of a CSV that are sent together, and by which the progress bar moves.
_ROWS = 200


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line. Returns its exit code, one of those in `console`."""
    return console.run(lambda: _run(argv), as_process=argv is None)


def _run(argv: Sequence[str] | None) -> int:
    arguments = parser().parse_args(argv)
    run = cast("Callable[[Client, argparse.Namespace], int]", arguments.run)
    if arguments.tenant is not None and not is_tenant(arguments.tenant):
        raise UsageError(f"--tenant: {quoted(arguments.tenant)} is none: 1 to 63 lower-case letters, digits or '-'")
    url = _redis_url(arguments.redis_url)
    with Client(url, tenant=arguments.tenant, max_queued=arguments.max_queued) as client:
        return run(client, arguments)


def _redis_url(option: str | None) -> str:
    if not option:
        return Address.from_environment().url
    try:
        address = Address.parse(option)
    except ConfigError as error:
        raise UsageError(str(error)) from None
    return address.within_environment().url


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    whole = argparse.ArgumentParser(prog="m3agiqa-submit", description="Submit images to be scored.")
    console.add_version(whole)
    whole.add_argument(
        "--redis-url",
        help=f"Redis with the queues (default: ${URL_VARIABLE} with ${USERNAME_VARIABLE} and ${PASSWORD_VARIABLE}, "
        f"else {DEFAULT})",
    )
    whole.add_argument(
        "--max-queued",
        type=console.whole(),
        default=MAX_QUEUED,
        metavar="N",
        help=f"refuse to submit while N requests wait (default: {MAX_QUEUED})",
    )
    whole.add_argument(
        "--tenant", metavar="TENANT", help="submit for this tenant, and mean its own ids (default: none, and TENANT/ID)"
    )
    commands = whole.add_subparsers(required=True, metavar="COMMAND")

    _add_one(commands.add_parser("one", help="submit one image; prints its request id"))

    many = commands.add_parser("csv", help="submit the rows of a CSV; prints their request ids")
    many.add_argument("file", type=Path, metavar="FILE", help=f"with the columns {', '.join(_COLUMNS)}; two are needed")
    many.set_defaults(run=_csv)

    result = commands.add_parser("result", help="print a verdict")
    result.add_argument("request_id", metavar="ID")
    _add_waiting(result)
    result.set_defaults(run=_result)

    export = commands.add_parser("export", help="print every verdict in Redis, one JSON object a line")
    export.add_argument("--batch-id", help="those of this batch alone")
    export.set_defaults(run=_export)

    cli_history.add_options(commands.add_parser("state", help="print where a request is"))

    cancel = commands.add_parser("cancel", help="take requests back: each is answered as cancelled, and not scored")
    cancel.add_argument("ids", nargs="+", metavar="ID")
    cancel.set_defaults(run=_cancel)

    purge = commands.add_parser("purge", help="take back all that wait for their score; prints their request ids")
    purge.set_defaults(run=_purge)

    erase = commands.add_parser("erase", help="remove every trace of requests from Redis; prints what it was")
    cli_erase.add_options(erase)

    cli_usage.add_options(commands.add_parser("usage", help="print what tenants used, by day"))
    cli_status.add_options(commands.add_parser("status", help="print how the queue is"))
    cli_dead.add_commands(commands.add_parser("dead", help="what workers gave up"))
    cli_webhook.add_commands(commands.add_parser("webhook", help="try a receiver of callbacks"))
    return whole


def _add_one(one: argparse.ArgumentParser) -> None:
    one.add_argument("image_url", metavar="URL")
    one.add_argument("--prompt", required=True, type=console.text, help="what the image was generated from")
    one.add_argument("--callback-url", help="receives the signed verdict by POST")
    one.add_argument("--s3-uri", help="s3://bucket/prefix the verdict is written below")
    one.add_argument("--aspect", action="append", choices=[str(aspect) for aspect in Aspect], help="default: all")
    one.add_argument("--policy", help="default: the worker's")
    one.add_argument(
        "--priority", type=int, choices=keys.PRIORITIES, default=3, help="0 is the most urgent (default: 3)"
    )
    one.add_argument("--request-id", help="default: a random one; one that was submitted before changes nothing")
    one.add_argument("--batch-id", help="a label of requests that belong together")
    one.add_argument("--retry-failed", action="store_true", help="try the request of this id anew if it failed")
    one.add_argument(
        "--expires-in", type=float, metavar="SECONDS", help="the image is not scored any more after so long"
    )
    _add_waiting(one)
    one.set_defaults(run=_one)


def _add_waiting(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--wait", type=console.number(most=1e9), metavar="SECONDS", help="wait for the verdict so long, and print it"
    )
    parser.add_argument("--json", action="store_true", help="print the verdict as JSON")


def _one(client: Client, arguments: argparse.Namespace) -> int:
    expires_at = None
    if arguments.expires_in is not None:
        try:
            expires_at = datetime.now(UTC) + timedelta(seconds=arguments.expires_in)
        except (ValueError, OverflowError):
            raise UsageError(f"--expires-in: {arguments.expires_in:g} seconds from now are no time") from None
    fields: Fields = {
        "image_url": arguments.image_url,
        "prompt": arguments.prompt,
        "callback_url": arguments.callback_url,
        "s3_uri": arguments.s3_uri,
        "aspects": arguments.aspect,
        "policy": arguments.policy,
        "priority": arguments.priority,
        "request_id": arguments.request_id,
        "expires_at": expires_at,
        "batch_id": arguments.batch_id,
        "retry_failed": arguments.retry_failed,
    }
    if arguments.retry_failed and arguments.wait is not None:
        # To wait for the request's id alone would find the verdict that stands until a worker tries it anew.
        return _show(client.score(timeout=arguments.wait, **fields), as_json=arguments.json)
    request_id = client.submit(**fields)
    if arguments.wait is None:
        print(json.dumps({"request_id": request_id}) if arguments.json else request_id)
        return DONE
    _note(f"submitted {request_id}")
    return _show(client.result(request_id, arguments.wait), as_json=arguments.json)


def _csv(client: Client, arguments: argparse.Namespace) -> int:
    with open_table(arguments.file, _COLUMNS[:2], {"image_path": "`m3agiqa batch` scores files on this disk"}) as table:
        if unknown := set(table.columns) - set(_COLUMNS):
            names = quoted(", ".join(sorted(unknown)), _REASON_CHARS)
            raise DataError(f"{table} may have the columns {', '.join(_COLUMNS)} and no others, and has {names}")
        return _submit_rows(client, table, _lines(arguments.file))


def _lines(file: Path) -> int | None:
    """The number of lines of a file; None for a pipe, which can be read only once."""
    if not is_file(file):
        return None
    with file.open("rb") as lines:
        return sum(1 for _ in lines)


def _submit_rows(client: Client, table: Iterable[Row], lines: int | None) -> int:
    bad = 0
    with Progress(console=_stderr()) as progress:
        bar = progress.add_task("submitting", total=lines)
        chunk: list[ScoreRequest] = []

        def send(line: int | None) -> None:
            _submit_patiently(client, chunk)
            chunk.clear()
            progress.update(bar, completed=line)

        for row in table:
            try:
                chunk.append(_request(row))
            except RequestInvalid as error:
                bad += 1
                _note(f"line {row.line}: {error}")
            if len(chunk) == _ROWS:
                send(row.line)
        send(lines)
    if bad:
        _note(f"{bad} rows were not submitted")
    return FAILED if bad else DONE


def _submit_patiently(client: Client, requests: Sequence[ScoreRequest]) -> None:
    """Queue requests and print their ids. Waits while the queue is full."""
    rest = list(requests)
    while rest:
        pause_s = 0.0
        try:
            ids: Sequence[str] = client.submit_many(rest)
        except QueueFull as full:
            ids, pause_s = full.submitted, full.retry_after_s
            _note(f"the queue is full; going on in {pause_s:.0f} s")
        for request_id in ids:
            print(request_id)
        del rest[: len(ids)]
        time.sleep(pause_s)


def _request(row: Row) -> ScoreRequest:
    if row.error is not None:
        raise RequestInvalid(row.error)
    # An empty prompt is a prompt; any other empty field counts as left out.
    fields: dict[str, object] = {name: value for name, value in row.values.items() if value or name == "prompt"}
    if "priority" in fields:
        if str(fields["priority"]) not in (known := [str(priority) for priority in keys.PRIORITIES]):
            raise RequestInvalid(f"priority: must be one of {', '.join(known)}")
        fields["priority"] = int(str(fields["priority"]))
    request = ScoreRequest.parse(fields)
    refuse_unknown_policy(request)
    return request


def _result(client: Client, arguments: argparse.Namespace) -> int:
    return _show(client.result(arguments.request_id, arguments.wait or 0), as_json=arguments.json)


def _export(client: Client, arguments: argparse.Namespace) -> int:
    for verdict in client.results(arguments.batch_id):
        print(cli_dead.as_json(verdict))
    return DONE


def _cancel(client: Client, arguments: argparse.Namespace) -> int:
    code = DONE
    for request_id in arguments.ids:
        if client.cancel(request_id):
            print(request_id)
        else:
            _note(f"{request_id} has its answer already")
            code = FAILED
    return code


def _purge(client: Client, arguments: argparse.Namespace) -> int:
    for request_id in client.purge():
        print(request_id)
    return DONE


def _show(verdict: Verdict, *, as_json: bool) -> int:
    if as_json:
        print(cli_dead.as_json(verdict))
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


@cache
def _stderr() -> Console:
    """The console for messages; data goes to stdout."""
    return Console(stderr=True, soft_wrap=True, highlight=False)


def _note(text: str) -> None:
    _stderr().print(text, markup=False)


if __name__ == "__main__":
    sys.exit(main())
