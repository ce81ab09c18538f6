"""Reads how much tenants used: admitted requests and verdicts by day, and what waits now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta

from pydantic import BaseModel, ConfigDict

from m3agiqa.errors import UsageError
from m3agiqa.fields import is_tenant
from m3agiqa.queue import keys
from m3agiqa.queue.connection import Connection

#: Days for which the scripts keep what was used.
KEPT_DAYS = 400
#: Days that `read` gives unless it is told others: today, and those before.
_DAYS = 30

_EPOCH = date(1970, 1, 1)


class Usage(BaseModel):
    """What requests of a tenant came to on a day, in UTC by the server's clock. A verdict counts on the day it came."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    day: date
    #: None is all requests without a tenant.
    tenant: str | None
    #: Requests that workers took in, and those that were tried anew; not those that were refused.
    admitted: int = 0
    #: Verdicts that were scored, by decision.
    accept: int = 0
    review: int = 0
    reject: int = 0
    #: Verdicts `failed`: refused ones and those taken back are among them.
    failed: int = 0

    @property
    def scored(self) -> int:
        return self.accept + self.review + self.reject


_COUNTED = frozenset(Usage.model_fields) - {"day", "tenant"}


def read(connection: Connection, first: date | None = None, last: date | None = None) -> list[Usage]:
    """What every tenant used on each day from `first` to `last`, both included: by day, and then by tenant. By default,
    the last 30 days.

    Raises:
        UsageError: `first` is after `last`.
        QueueUnavailable: as `Connection` does.
    """
    today = datetime.now(UTC).date()
    last = today if last is None else last
    first = last - timedelta(days=min(_DAYS - 1, (last - date.min).days)) if first is None else first
    if first > last:
        raise UsageError(f"usage from {first} to {last}: the first day is after the last")
    # Redis' clock may be ahead of ours.
    since, until = (day.toordinal() - today.toordinal() for day in (first, last))
    days = [today + timedelta(days=ago) for ago in range(max(since, -KEPT_DAYS), min(until, 1) + 1)]
    with connection.redis() as redis, redis.pipeline(transaction=False) as pipeline:
        for day in days:
            pipeline.hgetall(connection.key(keys.usage((day - _EPOCH).days)))
        told = pipeline.execute()
    return [one for day, counts in zip(days, told, strict=True) for one in _of_day(day, counts)]


def _of_day(day: date, counts: Mapping[str, str]) -> Iterator[Usage]:
    by_tenant: dict[str, dict[str, int]] = {}
    for field, count in counts.items():
        tenant, _, what = field.partition("|")
        if what in _COUNTED and count.isdecimal() and (not tenant or is_tenant(tenant)):
            by_tenant.setdefault(tenant, {})[what] = int(count)
    for tenant, counted in sorted(by_tenant.items()):
        yield Usage.model_validate({"day": day, "tenant": tenant or None, **counted})


def waiting(connection: Connection, tenant: str) -> int:
    """Requests of a tenant that are admitted and that no worker has begun, as `max_waiting` of its file counts them.
    Raises QueueUnavailable as `Connection` does.
    """
    with connection.redis() as redis, redis.pipeline(transaction=False) as pipeline:
        for priority in keys.PRIORITIES:
            pipeline.scard(connection.key(keys.front(priority, tenant)))
            pipeline.llen(connection.key(keys.lane(priority, tenant)))
        return sum(pipeline.execute())


def forget(connection: Connection, tenant: str) -> int:
    """Forget what a tenant used. Returns on how many days it had. Raises QueueUnavailable as `Connection` does."""
    today = (datetime.now(UTC).date() - _EPOCH).days
    with connection.redis() as redis, redis.pipeline(transaction=False) as pipeline:
        for day in range(today - KEPT_DAYS, today + 2):
            pipeline.hdel(connection.key(keys.usage(day)), *(f"{tenant}|{what}" for what in sorted(_COUNTED)))
        return sum(gone > 0 for gone in pipeline.execute())
