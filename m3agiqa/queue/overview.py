"""Reads how the queue is: what waits, what is owed, who works, and how often what happened.

Nothing here takes longer because more waits: lists and sets tell their lengths, and the scripts of the ledger count.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict
from redis import Redis
from redis.exceptions import NoPermissionError

from m3agiqa.fields import is_tenant
from m3agiqa.queue import keys
from m3agiqa.queue.connection import Connection
from m3agiqa.queue.images import waiting_bytes
from m3agiqa.queue.inbox import lengths_of

#: What the scripts count in `keys.COUNTS`: names, and what their labels are called.
COUNTED: Mapping[str, tuple[str, ...]] = {
    "requests_admitted": ("priority",),
    "requests_refused": ("code",),
    "verdicts": ("status", "decision", "policy"),
    "failures": ("code",),
    "requests_settled": (),
    "deliveries": ("kind", "outcome"),
    "dead_letters_made": ("kind", "code"),
    "leases_lost": ("kind",),
}
#: Seconds between two times that a worker says it is there, and after which it counts as gone.
REGISTER_S, GONE_AFTER_S = 5.0, 20

#: Seconds for which a receiver that failed is shown, as `failed` in the scripts keeps it, and how many at most.
_FAILING_S, _MOST_FAILING = 3600.0, 50
#: What a receiver may look like: a host, an address in brackets, or `s3://bucket`.
_RECEIVER = re.compile(r"(s3://)?[A-Za-z0-9._:\[\]-]{1,255}")
#: Seconds for which a task may be due before it counts as overdue: a sweep comes twice a second, and takes a hundred.
_OVERDUE_S = 10.0

#: What a label may look like; anything else was written by a stranger, or by a later version.
_LABEL = re.compile(r"[A-Za-z0-9._-]{0,128}")
#: Bytes of an inbox entry that is read for the time at which it was submitted. The age of a larger one is unknown.
_READ_BYTES = 65_536
#: Workers that are looked at, the latest first.
_MOST_WORKERS = 1000


class WorkerSeen(BaseModel):
    """What a worker says of itself every few seconds."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    #: HOST:PID.
    name: str
    queues: tuple[str, ...]
    #: Empty for one that only delivers.
    model: str
    #: Tasks that it has now.
    held: int
    #: Unix time, by its own clock.
    started_at: float
    version: str


class Overview(BaseModel):
    """How the queue is at one moment. `m3agiqa-submit status --json` and the exporter's `/queue` show it as JSON."""

    model_config = ConfigDict(frozen=True)

    #: Unix time, by the server's clock.
    taken_at: float
    #: Requests that no worker has begun, and seconds that the oldest has waited, by priority. A request still in its
    #: inbox has waited since the time that its producer names.
    waiting: dict[int, int]
    oldest_age_s: dict[int, float]
    #: How many of them wait in the lane of each tenant, "" without one, behind the 16 that are on the list.
    laned: dict[str, int] = {}
    #: Verdicts that wait on the list of deliveries. Those that wait for another attempt are owed only.
    deliveries_waiting: int
    #: Tasks to score and to deliver that are not done, and those that a worker should have looked after
    #: more than 10 s ago.
    tasks_owed: int
    tasks_overdue: int
    #: Tasks that workers have, as they said last.
    leases_held: int
    #: By code.
    dead_letters: dict[str, int]
    dead_letters_bytes: int
    dead_letters_dropped: int
    #: Bytes of images that lie beside their requests.
    images_waiting_bytes: int
    #: Entries of the ledger that were set aside because they cannot be read.
    unreadable_entries: int
    workers: tuple[WorkerSeen, ...]
    #: Receivers whose latest attempt failed within the last hour, the latest 50, and seconds since then.
    receivers_failing: dict[str, float]
    #: How often what happened since Redis began, as `NAME|LABEL|LABEL`; `COUNTED` has the names.
    counts: dict[str, int]
    #: None where this user of Redis may not know.
    redis_memory_bytes: int | None = None
    #: 0 means no limit.
    redis_memory_limit_bytes: int | None = None
    redis_noeviction: bool | None = None

    def workers_of(self, queue: str) -> int:
        return sum(queue in worker.queues for worker in self.workers)

    def count(self, name: str) -> int:
        """How often something happened, whatever its labels."""
        return sum(value for field, value in self.counts.items() if field.partition("|")[0] == name)


def read(connection: Connection) -> Overview:
    """Look once. Raises QueueUnavailable as `Connection` does."""
    inboxes = [word for step in keys.PRIORITIES for word in (connection.key(keys.inbox(step)), step)]
    now, *told = connection.run("look", [_READ_BYTES, *inboxes])
    with connection.redis() as redis:
        rest = _rest(redis, connection.key, float(now))
        return Overview(taken_at=float(now), **_waiting(float(now), told), **rest, **_memory(redis))


def register(connection: Connection, worker: WorkerSeen) -> None:
    """Say that a worker is there. Raises QueueUnavailable as `Connection` does."""
    fields = {**worker.model_dump(exclude={"name"}), "queues": ",".join(worker.queues)}
    connection.run("register", [worker.name, GONE_AFTER_S, *(word for field in fields.items() for word in field)])


def _waiting(now: float, told: Sequence[Any]) -> dict[str, Any]:
    waiting, ages = {}, {}
    for priority, at in zip(keys.PRIORITIES, range(0, len(told), 4), strict=True):
        entries, names, queued, submitted = told[at : at + 4]
        waiting[priority] = int(entries) + int(names)
        since = [float(queued)] if queued else []
        ages[priority] = max(0.0, now - min([*since, *_times(submitted), now]))
    return {"waiting": waiting, "oldest_age_s": ages}


def _times(submitted: str) -> list[float]:
    """The Unix time that a producer wrote, if it is one."""
    try:
        time = datetime.fromisoformat(submitted)
        return [time.timestamp()] if time.tzinfo is not None and time.year >= 2000 else []
    except (ValueError, OverflowError):
        return []


def _rest(redis: Redis, key: Callable[[str], str], now: float) -> dict[str, Any]:
    pipeline = redis.pipeline(transaction=False)
    pipeline.llen(key(keys.DELIVER_QUEUE))
    pipeline.zcard(key(keys.OWED))
    pipeline.zcount(key(keys.OWED), "-inf", now - _OVERDUE_S)
    pipeline.zcard(key(keys.UNREAD))
    pipeline.hgetall(key(keys.DEAD_CODES))
    pipeline.get(key(keys.DEAD_BYTES))
    pipeline.get(key(keys.DEAD_DROPPED))
    pipeline.hgetall(key(keys.COUNTS))
    pipeline.hgetall(key(keys.IMAGES))
    pipeline.zrange(key(keys.WORKERS), -_MOST_WORKERS, -1)
    since = now - _FAILING_S
    pipeline.zrange(
        key(keys.FAILING), "+inf", since, desc=True, withscores=True, byscore=True, offset=0, num=_MOST_FAILING
    )
    for priority in keys.PRIORITIES:
        pipeline.hgetall(key(keys.lanes(priority)))
    deliveries, owed, overdue, unread, letters, size, dropped, counts, images, names, failing, *lanes = (
        pipeline.execute()
    )
    workers = _workers(redis, key, names)
    return {
        "laned": _by_tenant(lanes),
        "deliveries_waiting": deliveries,
        "tasks_owed": owed,
        "tasks_overdue": overdue,
        "leases_held": sum(worker.held for worker in workers),
        "dead_letters": {code: count for code, count in _numbers(letters).items() if _LABEL.fullmatch(code)},
        "dead_letters_bytes": _number(size),
        "dead_letters_dropped": _number(dropped),
        "images_waiting_bytes": waiting_bytes(images, now),
        "unreadable_entries": unread,
        "workers": workers,
        "receivers_failing": {name: max(0.0, now - at) for name, at in failing if _RECEIVER.fullmatch(name)},
        "counts": {field: count for field, count in _numbers(counts).items() if _is_counted(field)},
    }


def _by_tenant(lanes: Sequence[Mapping[str, str]]) -> dict[str, int]:
    """How many wait in lanes of all priorities, by tenant."""
    found: Counter[str] = Counter()
    for told in lanes:
        found.update({tenant: length for tenant, length in lengths_of(told).items() if not tenant or is_tenant(tenant)})
    return dict(found)


def _workers(redis: Redis, key: Callable[[str], str], names: Sequence[str]) -> tuple[WorkerSeen, ...]:
    """The workers of these names that are there, by name."""
    pipeline = redis.pipeline(transaction=False)
    for name in names:
        pipeline.hgetall(key(keys.worker(name)))
    found = []
    for name, told in zip(names, pipeline.execute(), strict=True):
        try:
            found.append(WorkerSeen(**{**told, "name": name, "queues": told["queues"].split(",")}))
        except (KeyError, ValueError):  # it is gone, or of another version
            continue
    return tuple(sorted(found, key=lambda worker: worker.name))


def _memory(redis: Redis) -> dict[str, Any]:
    try:
        told = redis.info("memory")
    except NoPermissionError:
        return {}
    return {
        "redis_memory_bytes": told.get("used_memory"),
        "redis_memory_limit_bytes": told.get("maxmemory"),
        "redis_noeviction": told.get("maxmemory_policy") == "noeviction",
    }


def _numbers(told: Mapping[str, str]) -> dict[str, int]:
    """The fields of a hash that count something."""
    return {field: count for field, text in told.items() if (count := _number(text)) > 0}


def _number(text: str | None) -> int:
    return int(text) if text and re.fullmatch("[0-9]{1,18}", text) else 0


def _is_counted(field: str) -> bool:
    name, *labels = field.split("|")
    return name in COUNTED and len(COUNTED[name]) == len(labels) and all(map(_LABEL.fullmatch, labels))
