"""Verdicts as objects in S3."""

from __future__ import annotations

import base64
import hashlib
import logging
from typing import Any

from botocore.exceptions import ClientError

from m3agiqa.errors import DeliveryForbidden, DeliveryMisconfigured, DeliveryUnavailable
from worker import s3
from worker.settings import Settings
from worker.web.answers import is_temporary

logger = logging.getLogger(__name__)


class Objects:
    """Writes each verdict once. A repeated delivery leaves the first object as it is, as somebody may have read it.

    Raises:
        ConfigError: the AWS tools' variables and files are wrong.
    """

    def __init__(self, settings: Settings, at_most_s: float) -> None:
        self._buckets = settings.deliver_s3_buckets
        # Looking for credentials takes time, and without a bucket nothing uses them.
        self._s3: Any = s3.client(settings, settings.deliver_timeout_s) if self._buckets else None
        #: Buckets whose service refused If-None-Match.
        self._unconditional: set[str] = set()
        self._failures = s3.Failures(
            forbidden=DeliveryForbidden,
            denied=DeliveryForbidden,
            mistaken=DeliveryMisconfigured,
            missing=DeliveryForbidden,
            refused=DeliveryMisconfigured,
            unavailable=DeliveryUnavailable,
            at_most_s=at_most_s,
        )

    def split(self, url: str) -> tuple[str, str]:
        """Bucket and prefix of a URL.

        Raises:
            DeliveryForbidden: settings do not allow the bucket, or the prefix could lead out of it.
        """
        return s3.split(url, self._buckets, DeliveryForbidden)

    def put(self, bucket: str, key: str, body: bytes) -> None:
        """Write a verdict unless one is there already.

        Raises:
            DeliveryError: it was not written.
        """
        wanted = {
            "Bucket": bucket,
            "Key": key,
            "Body": body,
            "ContentType": "application/json",
            # Buckets with Object Lock demand a checksum, and every service knows this one.
            "ContentMD5": base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode(),
        }
        with self._failures.translated(bucket):
            if bucket in self._unconditional or not self._put_if_none(wanted):
                self._look_and_put(wanted)

    def _put_if_none(self, wanted: dict[str, Any]) -> bool:
        """Write the object if none is there; False if nothing was written, as the service knows no such condition."""
        try:
            self._s3.put_object(**wanted, IfNoneMatch="*")
        except ClientError as error:
            status, code = s3.reason(error)
            if status == 412 or (status == 409 and self._is_there(wanted)):
                return True
            if s3.knows_no_condition(status, code):
                return False
            raise
        return True

    def _look_and_put(self, wanted: dict[str, Any]) -> None:
        if self._is_there(wanted):
            return
        self._s3.put_object(**wanted)
        bucket = wanted["Bucket"]
        if bucket not in self._unconditional:
            self._unconditional.add(bucket)
            logger.warning(
                "s3://%s takes no If-None-Match: from now on, the worker looks for an object, and writes it if missing",
                bucket,
            )

    def _is_there(self, wanted: dict[str, Any]) -> bool:
        try:
            found = self._s3.head_object(Bucket=wanted["Bucket"], Key=wanted["Key"])
        except ClientError as error:
            status, _ = s3.reason(error)
            if is_temporary(status) and status != 501:
                raise
            # It is missing, or the worker may not look: writing again would write the same verdict.
            return False
        # An object without content is a write that broke off.
        return bool(found.get("ContentLength"))
