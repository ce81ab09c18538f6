"""Reads where requests stand: their states, how many are before them, and how long that may take.

A producer may ask, with no rights but to read the ledger and the lists' lengths: no script does this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict
from redis import Redis

from m3agiqa.queue import keys
from m3agiqa.queue.connection import Connection
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
    #: Its place among the requests that wait for their score, 1 for the next one; None if it does not wait, waits for
    #: another attempt, or has more than 10,000 of its priority before it.
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
    """Places of requests, of which priorities are known, that are on a list."""
    if not priorities:
        return {}
    with redis.pipeline(transaction=False) as pipeline:
        for priority in keys.PRIORITIES:
            pipeline.llen(connection.key(keys.inbox(priority)))
            pipeline.llen(connection.key(keys.wakeups(keys.SCORE_QUEUE, priority)))
        for name, priority in priorities.items():
            queue = connection.key(keys.wakeups(keys.SCORE_QUEUE, priority))
            # From the end that workers take from.
            pipeline.lpos(queue, name, rank=-1, maxlen=_SEARCHED)
        lengths, found = (told := pipeline.execute())[: 2 * len(keys.PRIORITIES)], told[2 * len(keys.PRIORITIES) :]
    names = dict(zip(keys.PRIORITIES, lengths[1::2], strict=True))
    before, urgent = {}, 0
    for priority, entries in zip(keys.PRIORITIES, lengths[::2], strict=True):
        before[priority] = urgent
        urgent += entries + names[priority]
    return {
        name: before[priority] + max(1, names[priority] - index)
        for (name, priority), index in zip(priorities.items(), found, strict=True)
        if index is not None
    }
