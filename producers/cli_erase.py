"""`m3agiqa-submit erase`: removes every trace of requests from Redis and S3, and says what it was."""

from __future__ import annotations

import argparse

from m3agiqa.client import Client, Erased, ErasedTenant
from m3agiqa.console import ATTENTION, DONE, say
from m3agiqa.errors import UsageError
from producers.cli_dead import as_json


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ids", nargs="*", metavar="ID")
    # In front of the command, --tenant says whose ids these are.
    parser.add_argument(
        "--tenant", dest="whole_tenant", metavar="TENANT", help="all requests of this tenant instead, and what it used"
    )
    parser.add_argument("--keep-usage", action="store_true", help="of a tenant, all but what it used")
    parser.add_argument(
        "--objects",
        action="store_true",
        help="from S3 too: verdicts, and images that were uploaded to M3AGIQA_UPLOAD",
    )
    parser.set_defaults(run=_erase)


def _erase(client: Client, arguments: argparse.Namespace) -> int:
    whole = arguments.whole_tenant
    if bool(arguments.ids) == (whole is not None):
        raise UsageError("erase takes either ids, or --tenant T for all of it; `--tenant T erase ID` erases one of T")
    if whole is not None:
        left = _left(client.erase_tenant(whole, keep_usage=arguments.keep_usage, objects=arguments.objects))
    else:
        left = sum(_left(client.erase(request_id, objects=arguments.objects)) for request_id in arguments.ids)
    return ATTENTION if arguments.objects and left else DONE


def _left(erased: Erased | ErasedTenant) -> int:
    """Say what was erased, and return how many objects are still there."""
    print(as_json(erased))
    for uri in erased.s3_objects:
        say(f"{uri} is still there: remove it from its bucket")
    return len(erased.s3_objects)
