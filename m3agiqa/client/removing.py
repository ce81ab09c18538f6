"""Removes what lies in S3 of a request that is erased. Needs boto3."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

from m3agiqa.client.bucket import s3_client
from m3agiqa.layout import redecided_beside
from m3agiqa.quoting import PATH_CHARS, quoted

logger = logging.getLogger(__name__)

_SCHEME = "s3://"


def remove_objects(verdicts: Sequence[str], images: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Remove objects with the credentials of this process: verdicts, those decided anew beside them, and images.
    Returns which are gone, and which are still there; the log says why.

    Raises:
        ConfigError: boto3 is missing, or the AWS tools' variables are wrong.
    """
    s3 = s3_client()
    from botocore.exceptions import BotoCoreError, ClientError

    gone: list[str] = []
    left: list[str] = []
    for is_verdict, uri in [*((True, uri) for uri in verdicts), *((False, uri) for uri in images)]:
        bucket, _, key = uri.removeprefix(_SCHEME).partition("/")
        try:
            for found in [*(_beside(s3, bucket, key) if is_verdict else ()), key]:
                s3.delete_object(Bucket=bucket, Key=found)
                gone.append(f"{_SCHEME}{bucket}/{found}")
        except (ClientError, BotoCoreError) as error:
            why = error.response["Error"]["Code"] if isinstance(error, ClientError) else type(error).__name__
            logger.warning("%s cannot be removed: %s", quoted(uri, PATH_CHARS), why)
            left.append(uri)
    return tuple(gone), tuple(left)


def _beside(s3: Any, bucket: str, key: str) -> Iterator[str]:
    """Keys of the verdicts that were decided anew from the one of this key."""
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=redecided_beside(key))
    yield from (found["Key"] for page in pages for found in page.get("Contents", ()))
