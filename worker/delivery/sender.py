"""Sends a verdict where its caller wants it: a signed callback, or an S3 object."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime

from m3agiqa.errors import DeliveryForbidden, DeliveryGone, DeliveryUnavailable
from worker.delivery.objects import Objects
from worker.delivery.receivers import Receivers
from worker.settings import Settings
from worker.shares import Shares
from worker.web.answers import host_of, retry_after_s
from worker.web.endpoints import allowed_endpoints
from worker.web.transport import Transport

#: Seconds. A receiver cannot ask for more patience than this.
MAX_RETRY_AFTER_S = 86_400.0


@dataclass(frozen=True)
class Delivery:
    """One verdict on its way to one receiver."""

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
        ConfigError: a setting is wrong: see `allowed_endpoints`, `Receivers` and `Objects`.
    """

    def __init__(self, settings: Settings, shares: Shares | None = None) -> None:
        self._shares = shares or Shares()
        self._timeout_s = settings.deliver_timeout_s
        self._web = Transport(
            timeout_s=settings.deliver_timeout_s,
            trusted=allowed_endpoints("M3AGIQA_DELIVER_ALLOW_HOSTS", settings.deliver_allow_hosts),
            forbidden=DeliveryForbidden,
            unavailable=DeliveryUnavailable,
            user_agent=settings.effective_user_agent,
            shares=self._shares,
        )
        self._receivers = Receivers(settings)
        self._objects = Objects(settings, MAX_RETRY_AFTER_S)

    def send(self, delivery: Delivery) -> None:
        """Deliver once; returning means that the receiver has it.

        Raises:
            DeliveryForbidden: the destination is not allowed or does not exist, or nothing is configured to sign with.
            DeliveryMisconfigured: only an operator can change why it was not delivered, and may be about to.
            DeliveryGone: the receiver answered 410.
            DeliveryUnavailable: anything else; `retry_after_s` if the receiver named a time.
            Busy: the receiver has all threads it may have; nothing was sent, or not all of it.
        """
        if delivery.kind == "callback":
            self._post(delivery)
        else:
            self._put(delivery)

    def _post(self, delivery: Delivery) -> None:
        headers = self._receivers.headers(delivery.url, delivery.request_id, delivery.body)
        until = time.monotonic() + self._timeout_s
        with self._web.open(
            "POST", delivery.url, until=until, body=delivery.body.encode(), headers=headers
        ) as response:
            # The body is left unread: the status says all, and a receiver cannot make us wait for more.
            host, status = host_of(response), response.status_code
            asked_for_s = retry_after_s(response.headers.get("retry-after", ""), MAX_RETRY_AFTER_S)
        if 200 <= status < 300:
            return
        if status == 410:
            raise DeliveryGone(f"{host} answered 410")
        raise DeliveryUnavailable(f"{host} answered {status}", retry_after_s=asked_for_s)

    def _put(self, delivery: Delivery) -> None:
        bucket, prefix = self._objects.split(delivery.url)
        with self._shares.take(f"s3://{bucket}", may_give_way=False):
            self._objects.put(bucket, _key(prefix, delivery), delivery.body.encode())


def _key(prefix: str, delivery: Delivery) -> str:
    """Key of a verdict in its bucket, by the date of submission (UTC), which every repetition of a delivery shares."""
    day = delivery.submitted_at.astimezone(UTC).date().isoformat()
    name = f"results/v1/dt={day}/{delivery.request_id}.json"
    return f"{prefix.strip('/')}/{name}" if prefix.strip("/") else name
