"""S3, limited to named buckets."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from m3agiqa.errors import M3AGIQAError
from m3agiqa.quoting import quoted
from worker.settings import Settings
from worker.web import USER_AGENT

SCHEME = "s3://"

#: A key is a part of a path, which servers and proxies may resolve: `../other/key` is in another bucket then.
_LEADS_ELSEWHERE = re.compile(r"(\A|/)\.\.?(/|\Z)|[\x00-\x1f\x7f-\x9f\\]")


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
            # None, as for all that is fetched and delivered; left out, the environment's would be taken.
            proxies={},
            user_agent=USER_AGENT,
            # Services other than AWS often have neither a host name per bucket nor the newer checksums.
            s3={"addressing_style": "path" if settings.s3_endpoint_url else "auto"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


def split(url: str, buckets: Collection[str], forbidden: type[M3AGIQAError]) -> tuple[str, str]:
    """Bucket and key of `s3://bucket/key`, or bucket and prefix. What follows the bucket is taken literally: S3 knows
    no query, fragment or escape in it, and a space is a space.

    Raises:
        forbidden: the bucket is not one of `buckets`, or the key could lead out of it.
    """
    bucket, _, key = url[len(SCHEME) :].partition("/")
    if bucket not in buckets:
        raise forbidden("the bucket is not on the list of allowed buckets")
    if _LEADS_ELSEWHERE.search(key):
        raise forbidden(f"s3://{bucket}: a key with '.' or '..' between slashes, a backslash or a control character")
    return bucket, key


def reason(error: ClientError) -> tuple[int, str]:
    """HTTP status and S3's word for it."""
    return int(error.response["ResponseMetadata"]["HTTPStatusCode"]), quoted(error.response["Error"]["Code"])
