"""Options of `m3agiqa-submit` that name the fields of a request."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime, timedelta
from typing import Any

from m3agiqa.contract import Aspect
from m3agiqa.errors import UsageError
from m3agiqa.queue import keys

_NAMES = ("prompt", "callback_url", "s3_uri", "policy", "priority", "batch_id")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add all but the image, its prompt and its id, which each command has in its own way."""
    parser.add_argument("--callback-url", help="receives the signed verdict by POST")
    parser.add_argument("--s3-uri", help="s3://bucket/prefix the verdict is written below")
    parser.add_argument("--aspect", action="append", choices=[str(aspect) for aspect in Aspect], help="default: all")
    parser.add_argument("--policy", help="default: the worker's")
    parser.add_argument("--priority", type=int, choices=keys.PRIORITIES, help="0 is the most urgent (default: 3)")
    parser.add_argument("--batch-id", help="a label of requests that belong together")
    parser.add_argument("--retry-failed", action="store_true", help="try anew what was submitted before, and failed")
    parser.add_argument(
        "--expires-in", type=float, metavar="SECONDS", help="an image is not scored any more after so long"
    )


def fields(arguments: argparse.Namespace) -> dict[str, Any]:
    """Fields of a request, those alone that options name.

    Raises:
        UsageError: --expires-in is no time.
    """
    given = {name: getattr(arguments, name) for name in _NAMES}
    given |= {"aspects": arguments.aspect, "retry_failed": arguments.retry_failed or None}
    if arguments.expires_in is not None:
        try:
            given["expires_at"] = datetime.now(UTC) + timedelta(seconds=arguments.expires_in)
        except (ValueError, OverflowError):
            raise UsageError(f"--expires-in: {arguments.expires_in:g} seconds from now are no time") from None
    return {name: value for name, value in given.items() if value is not None}
