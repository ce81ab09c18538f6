"""S3, limited to named buckets."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from m3agiqa.errors import M3AGIQAError
from worker.http import USER_AGENT
from worker.settings import Settings

SCHEME = "s3://"


def client(settings: Settings, timeout_s: float) -> Any:
    """A client that many threads may share. Credentials and region come from where the AWS tools look for them.

    `timeout_s` bounds each wait for the service; nothing is tried again here, as the queue does that.
    """
    session = boto3.session.Session()
    return session.client(
        "s3",
        endpoint_url=settings.s3_endpoint_url,
        region_name=session.region_name or "us-east-1",
        config=Config(
            connect_timeout=timeout_s,
            read_timeout=timeout_s,
            retries={"total_max_attempts": 1},
            max_pool_connections=64,
            user_agent=USER_AGENT,
            # Services other than AWS often have neither a host name per bucket nor the newer checksums.
            s3={"addressing_style": "path" if settings.s3_endpoint_url else "auto"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


def split(url: str, buckets: Collection[str], forbidden: type[M3AGIQAError]) -> tuple[str, str]:
    """Bucket and key of `s3://bucket/key`. The key is taken literally: S3 knows no query, fragment or escape in it.

    Raises:
        forbidden: the bucket is not one of `buckets`.
    """
    bucket, _, key = url[len(SCHEME) :].partition("/")
    if bucket not in buckets:
        raise forbidden("the bucket is not on the list of allowed buckets")
    return bucket, key


def reason(error: ClientError) -> tuple[int, str]:
    """HTTP status and S3's word for it."""
    return int(error.response["ResponseMetadata"]["HTTPStatusCode"]), str(error.response["Error"]["Code"])
