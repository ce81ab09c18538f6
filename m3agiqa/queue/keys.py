"""Names of keys, lists and channels in Redis. Scripts get them as constants, see `m3agiqa.queue.scripts`.

A request's name is what `m3agiqa.fields.name_of` gives.

These are the names without a namespace. `Connection.key` gives the name in a connection's own.
"""

from __future__ import annotations

from typing import get_args

from m3agiqa.contract import Priority

#: Celery's queues and tasks. A queue has a list for each priority, with the names of tasks to run.
SCORE_QUEUE = "score"
DELIVER_QUEUE = "deliver"
SCORE_TASK = "m3agiqa.score"
DELIVER_TASK = "m3agiqa.deliver"
#: Priorities, the most urgent first, whose list has the queue's bare name.
PRIORITIES: tuple[int, ...] = get_args(Priority)
SEPARATOR = ":"

#: Sorted set: every task that is owed, by the time to look after it, seconds of the Redis server's clock.
OWED = "m3agiqa:owed"
#: Sorted set: tasks whose entry in the ledger cannot be read, by the time they were set aside.
UNREAD = "m3agiqa:unread"
#: Seconds that the oldest request on the score queue has waited, with a short time to live.
OLDEST = "m3agiqa:oldest"
#: Hash: dead letters as JSON by id.
DEAD = "m3agiqa:dead"
#: Sorted set: ids of dead letters by the time they came.
DEAD_ORDER = "m3agiqa:dead:order"
#: Numbers: bytes of all dead letters, and dead letters dropped to make room for others.
DEAD_BYTES = "m3agiqa:dead:bytes"
DEAD_DROPPED = "m3agiqa:dead:dropped"
#: Hash: how many dead letters there are of each code.
DEAD_CODES = "m3agiqa:dead:codes"
#: Hash: how often what happened, `NAME|LABEL|LABEL`, since Redis began. `m3agiqa.queue.overview` knows the names.
COUNTS = "m3agiqa:counts"
#: Sorted set: receivers whose latest attempt failed, by its time, seconds of the server's clock: those of the last
#: hour, the latest 50. A host, or `s3://bucket`.
FAILING = "m3agiqa:failing"
#: Sorted set: workers by the time they last said that they are there, seconds of the server's clock.
WORKERS = "m3agiqa:workers"
#: Hash: how many verdicts workers published in each of the last minutes, by minutes since 1970 on the server's clock;
#: with a short time to live.
RATE = "m3agiqa:rate"
#: List: requests with their verdicts as JSON, which a shadow worker takes, and the share of requests that it wants,
#: from 0 to 1, with a short time to live.
SHADOW = "m3agiqa:shadow"
SHADOW_SHARE = "m3agiqa:shadow:share"

#: Hash: bytes of images that lie beside their requests, by the minute since 1970 in which they expire.
IMAGES = "m3agiqa:images"

#: Beginning of keys of hashes, one a day: how often what happened to requests of each tenant, `TENANT|admitted`,
#: `TENANT|accept` ...; kept for 400 days. `m3agiqa.queue.usage` reads them.
USAGE = "m3agiqa:usage:"

_SCORES = "m3agiqa:scores:"
_RESULT = "m3agiqa:result:"


#: Beginnings of keys of lanes, see `m3agiqa.queue.ledger`. List: a tenant's names that are not on the score queue's
#: list yet, the next one last. Set: those that are there. Hash: how many names there are in each lane, by tenant.
LANE, FRONT, LANES = "m3agiqa:lane:", "m3agiqa:front:", "m3agiqa:lanes:"


def lane(priority: int, tenant: str | None) -> str:
    """The list of a tenant's names behind those that are on the score queue; None is all requests without a tenant."""
    return f"{LANE}{priority}:{tenant or ''}"


def front(priority: int, tenant: str | None) -> str:
    """The set of a tenant's names that are on the score queue."""
    return f"{FRONT}{priority}:{tenant or ''}"


def lanes(priority: int) -> str:
    """The hash of the lengths of lanes, by tenant."""
    return f"{LANES}{priority}"


def usage(day: int) -> str:
    """The hash of a day, which counts from 1970 in UTC."""
    return f"{USAGE}{day}"


def inbox(priority: int) -> str:
    """The list that producers push requests on, each as plain JSON."""
    return f"m3agiqa:inbox:{priority}"


def newer(priority: int) -> str:
    """The list of entries that wait for a worker of a later version."""
    return f"m3agiqa:newer:{priority}"


def wakeups(queue: str, priority: int = 0) -> str:
    """The list of `queue` for a priority, with names of tasks to run."""
    if priority not in PRIORITIES:
        raise ValueError(f"priority {priority} is none of {PRIORITIES}")
    return f"{queue}{SEPARATOR}{priority}" if priority else queue


def request(name: str) -> str:
    """Key of the request's entry in the ledger."""
    return f"m3agiqa:request:{name}"


def image(name: str) -> str:
    """Key of the bytes of a request's image, with a time to live; see `m3agiqa.queue.images`."""
    return f"m3agiqa:image:{name}"


def result(name: str) -> str:
    """Key of the verdict, as JSON, with a time to live."""
    return _RESULT + name


def done(name: str) -> str:
    """Channel on which the verdict's arrival is announced; the message has no content."""
    return f"m3agiqa:done:{name}"


def scores(key: str) -> str:
    """Key of remembered scores of an image and a prompt, as JSON, with a time to live."""
    return _SCORES + key


def erased(digest: str) -> str:
    """Key that is there for a while once a request was erased, by the SHA-1 of its id: late verdicts are not kept."""
    return f"m3agiqa:erased:{digest}"


def worker(name: str) -> str:
    """Key of what a worker, HOST:PID, says of itself, with a time to live."""
    return f"m3agiqa:worker:{name}"
