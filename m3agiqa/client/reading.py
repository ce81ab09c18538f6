"""What anybody who may read Redis asks: where requests are, and which verdicts there are."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from datetime import date

from pydantic import ValidationError

from m3agiqa.chunks import chunks
from m3agiqa.contract import ScoreRequest, Verdict
from m3agiqa.errors import ConfigError
from m3agiqa.fields import is_tenant, name_of
from m3agiqa.queue import inbox, keys, usage
from m3agiqa.queue.connection import Connection
from m3agiqa.queue.standing import Status, statuses
from m3agiqa.queue.state import State, history_of, state_of
from m3agiqa.queue.usage import Usage
from m3agiqa.quoting import quoted

logger = logging.getLogger(__name__)

#: Verdicts and states that one round trip reads.
_CHUNK = 500
#: Steps of a scan that make a page at most.
_STEPS = 20


def tenant_named(tenant: str) -> str:
    if not is_tenant(tenant):
        raise ConfigError(f"tenant: {quoted(tenant)} is none: 1 to 63 lower-case letters, digits or '-'")
    return tenant


class Reader:
    """Reads what Redis holds of requests: of a tenant, or of all. Without a tenant, ids of requests that have one are
    `TENANT/ID`.

    Raises:
        ConfigError: `tenant` is no name of one.
    """

    def __init__(self, connection: Connection, tenant: str | None = None) -> None:
        self.tenant = None if tenant is None else tenant_named(tenant)
        self._connection = connection
        self._key = connection.key

    def state(self, request_id: str) -> State | None:
        """Where a request is; None before a worker has taken it in, and when it is forgotten, long after it was
        settled.

        Raises:
            QueueUnavailable: Redis cannot be reached.
        """
        return state_of(self._connection, self._name(request_id))

    def history(self, request_id: str) -> tuple[str, ...]:
        """What happened to a request: a line for each event with its Unix time, the newest last.

        Raises:
            QueueUnavailable: Redis cannot be reached.
        """
        return history_of(self._connection, self._name(request_id))

    def status_many(self, request_ids: Iterable[str]) -> dict[str, Status]:
        """Where requests are, how many wait before them, and for how long, 500 in two round trips.

        Raises:
            QueueUnavailable: Redis cannot be reached, or forbids this user to look.
        """
        found: dict[str, Status] = {}
        for some in chunks(dict.fromkeys(request_ids), _CHUNK):
            looked = statuses(self._connection, [self._name(request_id) for request_id in some])
            found |= {
                request_id: one.model_copy(update={"request_id": request_id})
                for request_id, one in zip(some, looked, strict=True)
            }
        return found

    def usage(self, first: date | None = None, last: date | None = None) -> list[Usage]:
        """What tenants used on each day from `first` to `last` (UTC), both included, by default the last 30; with a
        tenant, its own. Days on which a tenant used nothing are left out, and those before the last 400.

        Raises:
            UsageError: `first` is after `last`.
            QueueUnavailable: Redis cannot be reached, or forbids this user to look.
        """
        return [one for one in usage.read(self._connection, first, last) if self.tenant in (None, one.tenant)]

    def waiting(self) -> int:
        """Requests that no worker has begun; with a tenant, its own that are admitted.

        Raises:
            QueueUnavailable: Redis cannot be reached, or forbids this user to look.
        """
        if self.tenant is not None:
            return usage.waiting(self._connection, self.tenant)
        with self._connection.redis() as redis:
            return inbox.waiting(redis, self._key)

    def results(self, batch_id: str | None = None) -> Iterator[Verdict]:
        """Every verdict that is in Redis now, in no particular order; with `batch_id`, those of that batch; with a
        tenant, its own.

        Raises:
            QueueUnavailable: Redis cannot be reached, or forbids this user to.
        """
        with self._connection.redis() as redis:
            # A set, because a scan may name a key twice.
            names = set(redis.scan_iter(match=self._results(), count=_CHUNK))
        yield from self._verdicts(names, batch_id)

    def page(self, cursor: int = 0, limit: int = _CHUNK, batch_id: str | None = None) -> tuple[list[Verdict], int]:
        """Some of what `results` gives, about `limit` or fewer, and the cursor of the next page, which is 0 after the
        last one. Between two pages that are not the last, any may be empty: Redis looks among the keys of all.

        A verdict that is there from the first page to the last one is on a page, perhaps on two.

        Raises:
            QueueUnavailable: Redis cannot be reached, or forbids this user to.
        """
        names: set[str] = set()
        with self._connection.redis() as redis:
            for _ in range(_STEPS):
                cursor, found = redis.scan(cursor, match=self._results(), count=min(limit, _CHUNK))
                names.update(map(str, found))
                if not cursor or len(names) >= limit:
                    break
        return list(self._verdicts(names, batch_id)), cursor

    def _results(self) -> str:
        """Glob over the keys of verdicts."""
        return self._key(keys.result(self._name("*")))

    def _verdicts(self, names: Iterable[str], batch_id: str | None) -> Iterator[Verdict]:
        """What lies under keys of verdicts, of a batch if it is named."""
        for page in chunks(names, _CHUNK):
            for name, found in zip(page, self._connection.call("mget", page), strict=True):
                if found is None:  # it expired since
                    continue
                try:
                    verdict = Verdict.model_validate_json(found)
                except ValidationError:
                    logger.warning("%s cannot be read, and is left out", quoted(name, 200))
                    continue
                if batch_id in (None, verdict.batch_id) and self.tenant in (None, verdict.tenant):
                    yield verdict

    def _name(self, request_id: str) -> str:
        """The name by which the queue knows a request."""
        return name_of(self.tenant, request_id)

    def _id(self, request: ScoreRequest) -> str:
        """What this client calls a request."""
        return request.name if self.tenant is None else request.request_id
