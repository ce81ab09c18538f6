"""`m3agiqa-submit`: submits images to the queue, and shows their verdicts."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import cast

from m3agiqa import console
from m3agiqa.client import MAX_QUEUED, Client
from m3agiqa.console import DONE, FAILED
from m3agiqa.errors import ConfigError, UsageError
from m3agiqa.fields import is_tenant
from m3agiqa.queue.address import DEFAULT, PASSWORD_VARIABLE, URL_VARIABLE, USERNAME_VARIABLE, Address
from m3agiqa.quoting import quoted
from producers import cli_dead, cli_erase, cli_file, cli_history, cli_one, cli_status, cli_usage, cli_webhook
from producers.notes import note


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

    cli_one.add_options(commands.add_parser("one", help="submit one image; prints its request id"))
    many = "submit the rows of a table, or the images of a bucket; prints their request ids"
    cli_file.add_options(commands.add_parser("file", aliases=["csv"], help=many))
    cli_one.add_result_options(commands.add_parser("result", help="print a verdict"))

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
            note(f"{request_id} has its answer already")
            code = FAILED
    return code


def _purge(client: Client, arguments: argparse.Namespace) -> int:
    for request_id in client.purge():
        print(request_id)
    return DONE


if __name__ == "__main__":
    sys.exit(main())
