"""Reads verdicts back from the bucket that they were delivered to."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from pydantic import ValidationError

from m3agiqa.contract import Verdict, describe_validation
from m3agiqa.errors import FetchForbidden, FetchRefused, FetchUnavailable, M3AGIQAError
from m3agiqa.layout import RESULTS, below
from m3agiqa.quoting import PATH_CHARS, quoted
from worker import s3
from worker.settings import Settings

logger = logging.getLogger(__name__)

#: Bytes of an object at most: metadata, prompt and descriptions of a verdict take less than half of it.
MAX_BYTES = 2**18
#: Objects that are read side by side, and those of one listing, which are kept in memory together.
_THREADS, _PAGE = 16, 256


def verdicts(settings: Settings, url: str) -> Iterator[Verdict]:
    """Every verdict below `url`, an `s3_uri` of requests, by date of submission.

    Whoever calls this chose the bucket, so that settings need not allow it. An object that cannot be read, or is no
    verdict, is left out, and the log says so.

    Raises:
        ConfigError: the AWS tools' variables and files are wrong.
        FetchError: the bucket cannot be listed.
    """
    bucket, prefix = s3.split(url, {url[len(s3.SCHEME) :].partition("/")[0]}, FetchForbidden)
    client = s3.client(settings, settings.fetch_timeout_s)
    read = partial(_read, client, bucket)
    with ThreadPoolExecutor(_THREADS) as pool:
        for page in _pages(client, bucket, below(prefix, RESULTS)):
            yield from (verdict for verdict in pool.map(read, page) if verdict is not None)


def _pages(client: Any, bucket: str, within: str) -> Iterator[list[dict[str, Any]]]:
    listing = client.get_paginator("list_objects_v2").paginate(
        Bucket=bucket, Prefix=within, PaginationConfig={"PageSize": _PAGE}
    )
    with _FAILURES.translated(bucket):
        for page in listing:
            yield [found for found in page.get("Contents", ()) if found["Key"].endswith(".json")]


def _read(client: Any, bucket: str, found: dict[str, Any]) -> Verdict | None:
    """The verdict in an object; None if there is none that could be read."""
    try:
        with _FAILURES.translated(bucket):
            body = client.get_object(Bucket=bucket, Key=found["Key"])["Body"]
            with body:
                data = body.read(MAX_BYTES + 1)
        if len(data) <= MAX_BYTES:
            return Verdict.model_validate_json(data)
        why = f"it has more than {MAX_BYTES} bytes"
    except ValidationError as error:
        why = f"it is no verdict: {describe_validation(error)}"
    except M3AGIQAError as error:
        why = str(error)
    logger.warning("%s is left out: %s", quoted(f"s3://{bucket}/{found['Key']}", PATH_CHARS), why)
    return None


_FAILURES = s3.Failures(
    forbidden=FetchForbidden,
    denied=FetchForbidden,
    mistaken=FetchUnavailable,
    missing=FetchRefused,
    refused=FetchRefused,
    unavailable=FetchUnavailable,
    at_most_s=0.0,
)
