"""Puts images into a bucket of S3, under their SHA-256. The only part of the client that needs boto3."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from pydantic import TypeAdapter, ValidationError

from m3agiqa.contract import ScoreRequest, describe_validation
from m3agiqa.errors import ConfigError, UploadError
from m3agiqa.fields import S3Uri

#: Variables of the place to upload to, of a service other than AWS, and of where a bucket's name stands.
UPLOAD, ENDPOINT, STYLE = "M3AGIQA_UPLOAD", "M3AGIQA_S3_ENDPOINT_URL", "M3AGIQA_S3_ADDRESSING_STYLE"

#: How files of each kind begin, and what names and types they have.
_KINDS = {
    (0, b"\xff\xd8\xff"): ("jpg", "image/jpeg"),
    (0, b"\x89PNG"): ("png", "image/png"),
    (0, b"GIF8"): ("gif", "image/gif"),
    (8, b"WEBP"): ("webp", "image/webp"),
    (4, b"ftypavi"): ("avif", "image/avif"),
}


class Bucket:
    """Uploads below `s3://bucket/prefix`, as `SHA256[:2]/SHA256.EXTENSION`. Safe to share between threads.

    It finds credentials, region and endpoint where the AWS tools do, and the endpoint in M3AGIQA_S3_ENDPOINT_URL first.

    Raises:
        ConfigError: this is no such place.
    """

    def __init__(self, place: str) -> None:
        try:
            TypeAdapter(S3Uri).validate_python(place)
        except ValidationError as error:
            raise ConfigError(f"{UPLOAD}: {describe_validation(error)}") from None
        self._bucket, _, prefix = place[len("s3://") :].partition("/")
        self._prefix = f"{prefix.rstrip('/')}/" if prefix.strip("/") else ""

    def holds(self, url: str) -> bool:
        """Whether this is where an image lies that was uploaded here."""
        return url.startswith(f"s3://{self._bucket}/{self._prefix}")

    def url(self, data: bytes) -> str:
        """Where an image will lie."""
        digest = hashlib.sha256(data).hexdigest()
        return f"s3://{self._bucket}/{self._prefix}{digest[:2]}/{digest}.{_kind(data)[0]}"

    @cached_property
    def _s3(self) -> Any:
        # Not before it is used: whoever only looks at the queue needs no boto3.
        return s3_client()

    def keep(self, images: Sequence[tuple[ScoreRequest, bytes]]) -> int:
        """Upload images; returns their number. One that is there is put again, so that rules by age leave it there.

        Raises:
            ConfigError: boto3 is missing, or the AWS tools' variables are wrong.
            UploadError: the service refuses one, or cannot be reached.
        """
        s3 = self._s3
        from botocore.exceptions import BotoCoreError, ClientError

        for request, data in images:
            key = request.image_url.removeprefix(f"s3://{self._bucket}/")
            try:
                s3.put_object(Bucket=self._bucket, Key=key, Body=data, ContentType=_kind(data)[1])
            except ClientError as error:
                raise UploadError(f"s3://{self._bucket} answered {error.response['Error']['Code']}") from None
            except BotoCoreError as error:
                raise UploadError(f"s3://{self._bucket} cannot be written to ({type(error).__name__})") from None
        return len(images)


def _kind(data: bytes) -> tuple[str, str]:
    """Extension and type of a file. A worker finds out itself what it is."""
    found = (kind for (at, begin), kind in _KINDS.items() if data.startswith(begin, at))
    return next(found, ("bin", "application/octet-stream"))


def s3_client() -> Any:
    """A client for S3, which finds credentials and region where the AWS tools do.

    Raises:
        ConfigError: boto3 is missing, or the AWS tools' variables are wrong.
    """
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ImportError:
        raise ConfigError("S3 needs boto3: pip install 'm3agiqa[upload]'") from None
    endpoint = os.environ.get(ENDPOINT) or None
    try:
        session = boto3.session.Session()
        # Services other than AWS often have no host name per bucket.
        style = os.environ.get(STYLE) or ("path" if endpoint else "auto")
        return session.client(
            "s3",
            endpoint_url=endpoint,
            region_name=session.region_name or "us-east-1",
            config=Config(
                retries={"mode": "standard", "total_max_attempts": 3},
                max_pool_connections=32,
                s3={"addressing_style": style},
            ),
        )
    except (BotoCoreError, ValueError) as error:
        raise ConfigError(
            f"cannot make a client for S3 ({type(error).__name__}): see AWS_PROFILE, AWS_DEFAULT_REGION and {ENDPOINT}"
        ) from None
