"""Sends a verdict to its receiver: as a signed callback, or as an object in S3."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime

from m3agiqa.errors import DeliveryForbidden, DeliveryGone, DeliveryUnavailable
from m3agiqa.fields import tenant_of
from m3agiqa.layout import redecided_key, result_key
from m3agiqa.tenants import Tenants
from worker import s3
from worker.delivery.objects import Objects
from worker.delivery.receivers import Receivers
from worker.settings import Settings
from worker.shares import Shares
from worker.web.answers import host_of, retry_after_s
from worker.web.endpoints import endpoint_of, host_of_endpoint
from worker.web.transport import Transport
from worker.web.trust import Trust

#: Seconds until the next attempt that a receiver may ask for at most.
MAX_RETRY_AFTER_S = 86_400.0


@dataclass(frozen=True)
class Delivery:
    """One verdict on its way to one receiver."""

    #: The name of its request: the id, with a tenant `TENANT/ID`.
    request: str
    #: "callback" or "s3".
    kind: str
    #: The callback's URL, or `s3://bucket/prefix`.
    url: str
    #: The verdict as JSON; its UTF-8 is signed and sent as it is.
    body: str
    submitted_at: datetime
    #: The span that sends it, for the receiver's own.
    traceparent: str | None = None
    #: Digest of the policy that decided anew; None for the first verdict.
    redecided_by: str | None = None
    #: How often the request was tried anew after a failure.
    retries: int = 0

    @property
    def name(self) -> str:
        """The request's name; the verdict of a request that was tried anew has another name than the one before."""
        # No name of a request has "!".
        return f"{self.request}!{self.retries}" if self.retries else self.request

    @property
    def message_id(self) -> str:
        """The same for a delivery and its repetition, and another for each other one."""
        # What is signed is joined by dots, so an id may hold none; no name of a request has "~" or ":".
        message_id = self.name.replace(".", "~")
        return message_id if self.redecided_by is None else f"{message_id}:{self.redecided_by}"


def receiver_of(url: str) -> str:
    """The receiver as operators know it: a host, or `s3://bucket`. Empty if the URL names none."""
    if url.lower().startswith(s3.SCHEME):
        return s3.SCHEME + url[len(s3.SCHEME) :].partition("/")[0]
    try:
        return host_of_endpoint(endpoint_of(url))
    except ValueError:
        return ""


class Sender:
    """Delivers verdicts. Safe to share among threads.

    `shares` says how many threads a receiver may have; a bucket counts as a receiver. Without it, any number.

    Raises:
        ConfigError: a setting is wrong: see `Trust`, `Receivers` and `Objects`.
    """

    def __init__(self, settings: Settings, shares: Shares | None = None) -> None:
        self._shares = shares or Shares()
        self._timeout_s = settings.deliver_timeout_s
        self._web = Transport(
            timeout_s=settings.deliver_timeout_s,
            trusted=Trust.from_setting("M3AGIQA_DELIVER_ALLOW_HOSTS", settings.deliver_allow_hosts),
            forbidden=DeliveryForbidden,
            unavailable=DeliveryUnavailable,
            user_agent=settings.effective_user_agent,
            shares=self._shares,
        )
        self._receivers = Receivers(settings)
        self._tenants = Tenants()
        self._objects = Objects(settings, MAX_RETRY_AFTER_S)

    def send(self, delivery: Delivery) -> str:
        """Try to deliver once. When it returns, the receiver has the verdict. Returns the URI of the object that holds
        it, empty after a callback.

        Raises:
            DeliveryForbidden: the destination is not allowed or does not exist, or there is no secret to sign with.
            TenantMisconfigured: the tenant's file, or that of its secrets, cannot be read.
            DeliveryMisconfigured: an operator must change something, and may be about to.
            DeliveryGone: the receiver answered 410.
            DeliveryUnavailable: any other failure; `retry_after_s` if the receiver named a time.
            Busy: the receiver has all threads it may have; it got nothing, or not all.
        """
        if delivery.kind == "callback":
            self._post(delivery)
            return ""
        return self._put(delivery)

    def _post(self, delivery: Delivery) -> None:
        tenant = self._tenants.find(tenant_of(delivery.request))
        headers = self._receivers.headers(delivery.url, delivery.message_id, delivery.body, tenant)
        if delivery.traceparent is not None:
            headers["traceparent"] = delivery.traceparent
        until = time.monotonic() + self._timeout_s
        with self._web.open(
            "POST", delivery.url, until=until, body=delivery.body.encode(), headers=headers
        ) as response:
            # The body is left unread: the status says all, and a long body would keep this thread.
            host, status = host_of(response), response.status_code
            asked_for_s = retry_after_s(response.headers.get("retry-after", ""), MAX_RETRY_AFTER_S)
        if 200 <= status < 300:
            return
        if status == 410:
            raise DeliveryGone(f"{host} answered 410")
        raise DeliveryUnavailable(f"{host} answered {status}", retry_after_s=asked_for_s)

    def _put(self, delivery: Delivery) -> str:
        bucket, prefix = self._objects.split(delivery.url)
        key = _key(prefix, delivery)
        with self._shares.take(s3.SCHEME + bucket, may_give_way=False):
            self._objects.put(bucket, key, delivery.body.encode())
        return f"{s3.SCHEME}{bucket}/{key}"


def _key(prefix: str, delivery: Delivery) -> str:
    if delivery.redecided_by is not None:
        return redecided_key(prefix, delivery.request, delivery.submitted_at, delivery.redecided_by)
    return result_key(prefix, delivery.name, delivery.submitted_at)
