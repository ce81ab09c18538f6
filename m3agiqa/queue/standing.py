"""Reads where requests stand: their states, how many are before them, and how long that may take.

A producer may ask, with no rights but to read the ledger and the lists' lengths: no script does this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict
from redis import Redis

from m3agiqa.fields import tenant_of
from m3agiqa.queue import keys
from m3agiqa.queue.connection import Connection
from m3agiqa.queue.inbox import lengths_of
from m3agiqa.queue.state import State, known_state

#: Names on a list among which a request is searched for, from the one that is next.
_SEARCHED = 10_000


class Status(BaseModel):
    """Where a request stands."""

    model_config = ConfigDict(frozen=True)

    #: Its id; `TENANT/ID` where who asks has no tenant, and it has.
    request_id: str
    #: None before a worker has taken it in, and when it is forgotten, long after it was settled.
    state: State | None
    #: The request's own.
    batch_id: str | None = None
    #: Its place among the requests that wait for their score, 1 for the next one. Before it are those of more urgent
    #: priorities and those before it on the list. In a lane, before it are all on the list, those before it in
    #: the lane, and as many of each other lane, as tenants take turns. None if it does not wait, waits for another
    #: attempt, or has more than 10,000 before it on the list or in the lane.
    position: int | None = None
    #: Seconds until its turn at the rate of the last minutes; None without a position, and where no verdict came in
    #: them.
    expected_s: float | None = None


def statuses(connection: Connection, names: Sequence[str]) -> list[Status]:
    """Where each of the requests of these names stands, in order; two round trips. Raises QueueUnavailable as
    `Connection` does.
    """
    with connection.redis() as redis:
        with redis.pipeline(transaction=False) as pipeline:
            for name in names:
                pipeline.hmget(connection.key(keys.request(name)), ["state", "batch", "priority"])
            pipeline.hgetall(connection.key(keys.RATE))
            *entries, counted = pipeline.execute()
        rate = per_second(counted)
        asked = {
            name: int(priority)
            for name, (state, _, priority) in zip(names, entries, strict=True)
            if state == State.SUBMITTED and priority in map(str, keys.PRIORITIES)
        }
        positions = _positions(redis, connection, asked)
    return [
        Status(
            request_id=name,
            state=known_state(state),
            batch_id=batch,
            position=(position := positions.get(name)),
            expected_s=None if rate is None or position is None else position / rate,
        )
        for name, (state, batch, _) in zip(names, entries, strict=True)
    ]


def per_second(counted: Mapping[str, str]) -> float | None:
    """Verdicts a second over the last minutes, of numbers of verdicts by minute. The latest minute is not over, so it
    does not count.
    """
    minutes = {int(minute): int(count) for minute, count in counted.items() if minute.isdecimal() and count.isdecimal()}
    if len(minutes) < 2:
        return None
    latest = max(minutes)
    return sum(count for minute, count in minutes.items() if minute < latest) / (60 * (latest - min(minutes)))


def _positions(redis: Redis, connection: Connection, priorities: Mapping[str, int]) -> dict[str, int]:
    """Places of requests, of which priorities are known, that are on a list or in a lane."""
    if not priorities:
        return {}
    with redis.pipeline(transaction=False) as pipeline:
        for priority in keys.PRIORITIES:
            pipeline.llen(connection.key(keys.inbox(priority)))
            pipeline.llen(connection.key(keys.wakeups(keys.SCORE_QUEUE, priority)))
            pipeline.hgetall(connection.key(keys.lanes(priority)))
        for name, priority in priorities.items():
            # From the end that workers take from.
            for queue in (keys.wakeups(keys.SCORE_QUEUE, priority), keys.lane(priority, tenant_of(name))):
                pipeline.lpos(connection.key(queue), name, rank=-1, maxlen=_SEARCHED)
        told = pipeline.execute()
    lengths, found = told[: 3 * len(keys.PRIORITIES)], told[3 * len(keys.PRIORITIES) :]
    waiting, urgent = {}, 0
    for priority, entries, names, lanes in zip(
        keys.PRIORITIES, lengths[::3], lengths[1::3], map(lengths_of, lengths[2::3]), strict=True
    ):
        waiting[priority] = _Waiting(urgent, names, lanes)
        urgent += entries + names + sum(lanes.values())
    places = {
        name: waiting[priority].place(tenant_of(name) or "", listed, laned)
        for (name, priority), listed, laned in zip(priorities.items(), found[::2], found[1::2], strict=True)
    }
    return {name: place for name, place in places.items() if place is not None}


class _Waiting(NamedTuple):
    """What waits of a priority: requests more urgent than any of it, names on the list, and in lanes by tenant."""

    before: int
    names: int
    lanes: Mapping[str, int]

    def place(self, tenant: str, listed: int | None, laned: int | None) -> int | None:
        """The place of a name of which it is known how far it is from the list's beginning, or the lane's."""
        if listed is not None:
            return self.before + max(1, self.names - listed)
        if laned is None:
            return None
        own = max(1, self.lanes.get(tenant, 0) - laned)
        # Tenants take turns: while this name comes forward, as many of each other lane do, if it has as many.
        others = sum(min(length, own) for name, length in self.lanes.items() if name != tenant)
        return self.before + self.names + others + own
