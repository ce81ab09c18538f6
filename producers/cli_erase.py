"""`m3agiqa-submit erase`: removes every trace of requests from Redis and S3, and says what it was."""

from __future__ import annotations

import argparse

from m3agiqa.client import Client
from m3agiqa.console import ATTENTION, DONE, say
from producers.cli_dead import as_json


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ids", nargs="+", metavar="ID")
    parser.add_argument(
        "--objects", action="store_true", help="from S3 too: verdicts, and images that were uploaded to M3AGIQA_UPLOAD"
    )
    parser.set_defaults(run=_erase)


def _erase(client: Client, arguments: argparse.Namespace) -> int:
    left = 0
    for request_id in arguments.ids:
        erased = client.erase(request_id, objects=arguments.objects)
        print(as_json(erased))
        for uri in erased.s3_objects:
            say(f"{uri} is still there: remove it from its bucket")
        left += len(erased.s3_objects)
    return ATTENTION if arguments.objects and left else DONE
