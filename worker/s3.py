"""A client for S3, limited to named buckets, and what S3's errors mean."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import boto3
import urllib3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    SSOError,
    TokenRetrievalError,
)

from m3agiqa.contract import KEY_LEADS_ELSEWHERE
from m3agiqa.errors import ConfigError, DeliveryUnavailable, FetchUnavailable, M3AGIQAError
from m3agiqa.quoting import quoted
from worker.ops.seldom import Seldom
from worker.settings import Settings
from worker.web.answers import is_temporary, retry_after_s

logger = logging.getLogger(__name__)

SCHEME = "s3://"


@dataclass(frozen=True)
class _Mistake:
    """Something that an operator must change."""

    what: str
    #: Whether a later attempt may succeed: by itself, or because an operator is at work.
    passes: bool = False


_CREDENTIALS = _Mistake("the worker's credentials are missing or incomplete", passes=True)
_TOKEN = _Mistake("the worker's session token has expired, or is none", passes=True)
_CLOCK = _Mistake("this machine's clock is wrong", passes=True)
_QUOTA = _Mistake("the quota or the disk is used up", passes=True)
_DENIED = _Mistake("the worker's credentials do not allow it")
_NO_BUCKET = _Mistake("there is no such bucket")
_REGION = _Mistake("the bucket is in another region, or at another endpoint: see AWS_DEFAULT_REGION")
_TOO_LARGE = _Mistake("the service takes nothing so large")
_UNSUPPORTED = _Mistake("the service does not support this")

_BY_CODE = {
    "InvalidAccessKeyId": _Mistake("the worker's access key is not known there"),
    "SignatureDoesNotMatch": _Mistake("the worker's secret key does not fit its access key"),
    "AccessDenied": _DENIED,
    "NoSuchBucket": _NO_BUCKET,
    "InvalidBucketName": _NO_BUCKET,
    "ExpiredToken": _TOKEN,
    "InvalidToken": _TOKEN,
    "TokenRefreshRequired": _TOKEN,
    "RequestTimeTooSkewed": _CLOCK,
    "RequestExpired": _CLOCK,
    "AuthorizationHeaderMalformed": _REGION,
    "InvalidRegion": _REGION,
    "IllegalLocationConstraintException": _REGION,
    "EntityTooLarge": _TOO_LARGE,
    "InvalidObjectState": _Mistake("the object is archived, and must be restored first"),
}
_BY_STATUS = {
    401: _DENIED,
    403: _DENIED,
    405: _UNSUPPORTED,
    413: _TOO_LARGE,
    501: _UNSUPPORTED,
    507: _QUOTA,
}
#: Words in the codes by which services other than AWS say that a quota is used up.
_QUOTA_WORDS = ("quota", "storagefull", "insufficientstorage", "capexceeded", "cap_exceeded")
#: Codes that come with status 400, though the next attempt may succeed.
_BROKE_OFF = frozenset({"RequestTimeout", "IncompleteBody", "BadDigest"})
_NO_CREDENTIALS = (
    NoCredentialsError,
    PartialCredentialsError,
    CredentialRetrievalError,
    TokenRetrievalError,
    SSOError,
)


def client(settings: Settings, timeout_s: float) -> Any:
    """A client that threads may share. It finds credentials and region where the AWS tools find them.

    `timeout_s` bounds each wait for the service. The client tries nothing again: the queue does.

    Raises:
        ConfigError: the AWS tools' variables and files are wrong.
    """
    try:
        session = boto3.session.Session()
        made = session.client(
            "s3",
            endpoint_url=settings.s3_endpoint_url,
            region_name=session.region_name or "us-east-1",
            config=Config(
                connect_timeout=timeout_s,
                read_timeout=timeout_s,
                retries={"total_max_attempts": 1},
                max_pool_connections=64,
                # No proxy, as for all that is fetched and delivered; without this, botocore takes the environment's.
                proxies={},
                user_agent=settings.effective_user_agent,
                s3={"addressing_style": settings.effective_s3_addressing_style},
                # Services other than AWS often know no newer checksums.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )
    except (BotoCoreError, ValueError) as error:
        raise ConfigError(
            f"cannot make a client for S3 ({type(error).__name__}): see AWS_PROFILE, AWS_DEFAULT_REGION and "
            "M3AGIQA_S3_ENDPOINT_URL"
        ) from None
    made.meta.events.register("before-call.s3.HeadBucket", _ask_once)
    return made


def _ask_once(params: dict[str, Any], **_: Any) -> None:
    """Keep botocore from following a redirect of its question for a bucket's region.

    Where an endpoint redirects everything (http to https, say), botocore 1.44 asks again until the stack is full.
    """
    params["context"].setdefault("s3_redirect", {})["redirected"] = True


def split(url: str, buckets: Collection[str], forbidden: type[M3AGIQAError]) -> tuple[str, str]:
    """Bucket and key, or bucket and prefix, of `s3://bucket/key`. The key is literal: S3 knows no query, fragment or
    escape in it, and a space is a space.

    Raises:
        forbidden: the bucket is not one of `buckets`, or the key could lead out of the bucket.
    """
    bucket, _, key = url[len(SCHEME) :].partition("/")
    if bucket not in buckets:
        raise forbidden("the bucket is not on the list of allowed buckets")
    if KEY_LEADS_ELSEWHERE.search(key):
        raise forbidden(f"s3://{bucket}: a key with '.' or '..' between slashes, a backslash or a control character")
    return bucket, key


def reason(error: ClientError) -> tuple[int, str]:
    """HTTP status, and S3's code for the error."""
    return int(error.response["ResponseMetadata"]["HTTPStatusCode"]), quoted(error.response["Error"]["Code"])


def knows_no_condition(status: int, code: str) -> bool:
    """Whether this answer to `If-None-Match: *` shows that the service ignores the header, or misreads it (304)."""
    return status in (304, 501) or (status == 400 and code not in _BROKE_OFF and _mistake(status, code) is None)


@dataclass(frozen=True)
class Failures:
    """Translates errors of S3 into ours, and logs once a minute those that an operator must mend.

    It raises `forbidden` for a malformed key, `denied` for a mistake that lasts, `mistaken` for one that may pass,
    `missing` for a key that is not there, `refused` for any other 4xx, and `unavailable` for the rest. `at_most_s`
    bounds the seconds until the next attempt that a service may ask for.
    """

    forbidden: type[M3AGIQAError]
    denied: type[M3AGIQAError]
    mistaken: type[M3AGIQAError]
    missing: type[M3AGIQAError]
    refused: type[M3AGIQAError]
    unavailable: type[FetchUnavailable] | type[DeliveryUnavailable]
    at_most_s: float
    _seldom: Seldom = field(default_factory=Seldom)

    @contextmanager
    def translated(self, bucket: str) -> Iterator[None]:
        try:
            yield
        except ClientError as error:
            raise self._answered(bucket, error) from None
        except ParamValidationError:
            raise self.forbidden(f"s3://{bucket}: the key, or the prefix, is malformed") from None
        except _NO_CREDENTIALS as error:
            raise self._mistaken(bucket, type(error).__name__, _CREDENTIALS) from None
        except (BotoCoreError, urllib3.exceptions.HTTPError) as error:
            failed = f"cannot be reached, or broke off ({type(error).__name__})"
            self._log(bucket, failed)
            raise self.unavailable(f"s3://{bucket} {failed}") from None

    def _answered(self, bucket: str, error: ClientError) -> M3AGIQAError:
        status, code = reason(error)
        if (mistake := _mistake(status, code)) is not None:
            return self._mistaken(bucket, f"answered {status} {code}", mistake)
        message = f"s3://{bucket} answered {status} {code}"
        if is_temporary(status) or code in _BROKE_OFF or status == 409:
            headers = error.response["ResponseMetadata"].get("HTTPHeaders", {})
            return self.unavailable(message, retry_after_s(headers.get("retry-after", ""), self.at_most_s))
        return (self.missing if status == 404 else self.refused)(message)

    def _mistaken(self, bucket: str, failed: str, mistake: _Mistake) -> M3AGIQAError:
        told = f"{failed}: {mistake.what}"
        self._log(bucket, told)
        return (self.mistaken if mistake.passes else self.denied)(f"s3://{bucket} {told}")

    def _log(self, bucket: str, failed: str) -> None:
        if self._seldom.now(f"{bucket} {failed}"):
            logger.error("s3://%s %s", bucket, failed)


def _mistake(status: int, code: str) -> _Mistake | None:
    if any(word in code.lower() for word in _QUOTA_WORDS):
        return _QUOTA
    if 300 <= status < 400 and status != 304:
        return _REGION
    return _BY_CODE.get(code) or _BY_STATUS.get(status)
