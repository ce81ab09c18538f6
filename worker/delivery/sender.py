"""Sends a verdict where its caller wants it: a signed callback, or an S3 object."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError
from pydantic import SecretStr
from standardwebhooks import Webhook

from m3agiqa.errors import ConfigError, DeliveryForbidden, DeliveryGone, DeliveryUnavailable
from m3agiqa.quoting import quoted
from worker import s3
from worker.settings import Settings
from worker.shares import Shares
from worker.web import Transport, endpoint_of, host_of, place_named, retry_after_s

#: Seconds. A receiver cannot ask for more patience than this.
MAX_RETRY_AFTER_S = 86_400.0

#: S3's words for what only an operator can change.
_S3_PERMANENT = frozenset({"AccessDenied", "AllAccessDisabled", "NoSuchBucket", "InvalidBucketName"})


@dataclass(frozen=True)
class Delivery:
    """One verdict on its way to one place."""

    request_id: str
    #: "callback" or "s3".
    kind: str
    #: Where to: the callback's URL, or `s3://bucket/prefix`.
    url: str
    #: The verdict as JSON; what is signed and sent is exactly its UTF-8.
    body: str
    submitted_at: datetime


class Sender:
    """Delivers. Safe to share among threads.

    `shares` says how many threads a receiver may have; a bucket counts as one. Without it, any number.

    Raises:
        ConfigError: a webhook secret breaks the standard, one is for what cannot be a host, or `deliver_allow_hosts`
            holds more than host:port.
    """

    def __init__(self, settings: Settings, shares: Shares | None = None) -> None:
        self._shares = shares or Shares()
        self._timeout_s = settings.deliver_timeout_s
        self._buckets = settings.deliver_s3_buckets
        self._web = Transport(
            timeout_s=settings.deliver_timeout_s,
            allow_hosts=settings.deliver_allow_hosts,
            forbidden=DeliveryForbidden,
            unavailable=DeliveryUnavailable,
            shares=self._shares,
        )
        self._s3 = s3.client(settings, settings.deliver_timeout_s) if self._buckets else None
        self._signers = _signers(settings.webhook_secrets)
        self._host_signers = _signers_by_place(settings.webhook_host_secrets)

    def send(self, delivery: Delivery) -> None:
        """Deliver once; returning means that the receiver has it.

        Raises:
            DeliveryForbidden: the destination is not allowed or does not exist, or nothing is configured to sign with.
            DeliveryGone: the receiver answered 410.
            DeliveryUnavailable: anything else; `retry_after_s` if the receiver named a time.
            Busy: the receiver has all threads it may have; nothing was sent, or not all of it.
        """
        if delivery.kind == "callback":
            self._post(delivery)
        else:
            self._put(delivery)

    def _post(self, delivery: Delivery) -> None:
        signers = self._signers_of(delivery.url)
        if not signers:
            raise DeliveryForbidden("callbacks are never sent unsigned: set M3AGIQA_WEBHOOK_SECRETS")
        headers = {"Content-Type": "application/json", **_signed(delivery, signers)}
        until = time.monotonic() + self._timeout_s
        with self._web.open(
            "POST", delivery.url, until=until, body=delivery.body.encode(), headers=headers
        ) as response:
            # The body is left unread: the status says all, and a receiver cannot make us wait for more.
            host, status = host_of(response), response.status_code
            asked_for_s = retry_after_s(response, MAX_RETRY_AFTER_S)
        if 200 <= status < 300:
            return
        if status == 410:
            raise DeliveryGone(f"{host} answered 410")
        raise DeliveryUnavailable(f"{host} answered {status}", retry_after_s=asked_for_s)

    def _signers_of(self, url: str) -> list[Webhook]:
        """A receiver with secrets of its own learns none that another one verifies with."""
        try:
            endpoint = endpoint_of(url)
        except ValueError:
            raise DeliveryForbidden("the URL cannot be requested: malformed") from None
        places = (endpoint, endpoint.rpartition(":")[0])
        return next((self._host_signers[place] for place in places if place in self._host_signers), self._signers)

    def _put(self, delivery: Delivery) -> None:
        bucket, prefix = s3.split(delivery.url, self._buckets, DeliveryForbidden)
        assert self._s3 is not None, "a bucket is allowed, so there is a client"
        try:
            with self._shares.take(f"s3://{bucket}", may_give_way=False):
                self._s3.put_object(
                    Bucket=bucket,
                    Key=_key(prefix, delivery),
                    Body=delivery.body.encode(),
                    ContentType="application/json",
                    # The first verdict stays: a repeated delivery changes nothing a reader may have seen.
                    IfNoneMatch="*",
                )
        except ClientError as error:
            status, code = s3.reason(error)
            if status == 412:
                return
            failure = DeliveryForbidden if code in _S3_PERMANENT else DeliveryUnavailable
            raise failure(f"s3://{bucket} answered {status} {code}") from None
        except ParamValidationError:
            raise DeliveryForbidden(f"s3://{bucket}: the prefix makes a malformed key") from None
        except BotoCoreError as error:
            raise DeliveryUnavailable(f"s3://{bucket} cannot be written ({type(error).__name__})") from None


def _signed(delivery: Delivery, signers: Sequence[Webhook]) -> dict[str, str]:
    """Standard Webhooks headers, with one signature a secret so that a receiver may hold the old or the new one."""
    # Dots separate what is signed, so an id may hold none; request ids have no "~" that this could collide with.
    message_id = delivery.request_id.replace(".", "~")
    now = datetime.now(UTC)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(signer.sign(message_id, now, delivery.body) for signer in signers),
    }


def _signers_by_place(secrets: Mapping[str, Iterable[SecretStr]]) -> dict[str, list[Webhook]]:
    """Signers by `host:port`, or by `host` for all its ports."""
    signers: dict[str, list[Webhook]] = {}
    for name, of_host in secrets.items():
        try:
            place = place_named(name)
        except ValueError:
            raise ConfigError(
                f"M3AGIQA_WEBHOOK_HOST_SECRETS: {quoted(name)!r} is not host, host:port or https://host"
            ) from None
        if place in signers:
            raise ConfigError(f"M3AGIQA_WEBHOOK_HOST_SECRETS: {place} is there twice, in two spellings")
        signers[place] = _signers(of_host)
    return signers


def _signers(secrets: Iterable[SecretStr]) -> list[Webhook]:
    return [_signer(secret.get_secret_value()) for secret in secrets]


def _signer(secret: str) -> Webhook:
    text = secret.removeprefix("whsec_").rstrip("=")
    try:
        # The package would take "hunter2" for base64 as well.
        key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        key = b""
    if not 24 <= len(key) <= 64:
        raise ConfigError(
            "M3AGIQA_WEBHOOK_SECRETS and M3AGIQA_WEBHOOK_HOST_SECRETS: each must be whsec_ and 24 to 64 bytes in base64"
        )
    return Webhook(key)


def _key(prefix: str, delivery: Delivery) -> str:
    """Key of a verdict in its bucket, by the date of submission (UTC), which every repetition of a delivery shares."""
    day = delivery.submitted_at.astimezone(UTC).date().isoformat()
    name = f"results/v1/dt={day}/{delivery.request_id}.json"
    return f"{prefix.strip('/')}/{name}" if prefix.strip("/") else name
