"""Removes every trace of a request from Redis, for whoever must forget it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from typing import Any

from pydantic import BaseModel, ConfigDict

from m3agiqa.errors import UsageError
from m3agiqa.fields import is_name, is_tenant, name_of, tenant_of
from m3agiqa.queue import keys, usage
from m3agiqa.queue.cancelling import Cancelling
from m3agiqa.queue.connection import Connection
from m3agiqa.queue.dead import DeadLetter, DeadLetters
from m3agiqa.quoting import quoted
from m3agiqa.tenants import Tenants

#: Seconds for which a verdict that a worker still makes of an erased request is not kept: longer than any run takes.
_LATE_S = 86_400
#: Keys that Redis looks at in one step of a search.
_SCANNED = 1000


class Erased(BaseModel):
    """What was removed from Redis, and what is left elsewhere."""

    model_config = ConfigDict(frozen=True)

    #: The name by which the queue knew it: its id, with a tenant `TENANT/ID`.
    request_id: str
    #: Whether the ledger knew the request, with its history.
    request: bool
    verdict: bool
    #: Whether scores were remembered. Another request for the same image and prompt had them in common.
    scores: bool
    #: Whether bytes of its image lay in Redis.
    image: bool
    #: Ids of its dead letters.
    dead_letters: tuple[str, ...]
    #: Samples for a shadow worker, and entries that waited for a worker of a later version.
    samples: int
    #: Objects that workers wrote, and that are still there.
    s3_objects: tuple[str, ...]
    #: Where its image lies in S3; None if it lies elsewhere, or was removed.
    s3_image: str | None = None
    #: Objects that were removed.
    s3_removed: tuple[str, ...] = ()


class ErasedTenant(BaseModel):
    """How much of a tenant was removed from Redis, and what is left elsewhere."""

    model_config = ConfigDict(frozen=True)

    tenant: str
    #: Requests of which anything was left, and how many of them had a verdict, remembered scores, an image in Redis.
    requests: int
    verdicts: int
    scores: int
    images: int
    dead_letters: int
    #: As in `Erased`.
    samples: int
    #: Days on which it had used anything; 0 if that was to be kept.
    usage_days: int
    #: Objects that workers wrote, and where images lie in S3; all that is still there.
    s3_objects: tuple[str, ...]
    s3_images: tuple[str, ...]
    #: Objects that were removed.
    s3_removed: tuple[str, ...] = ()


class Erasing:
    """Erases requests. Methods raise QueueUnavailable as `Connection` does."""

    def __init__(self, connection: Connection, tenants: Tenants | None = None) -> None:
        self._connection = connection
        self._dead = DeadLetters(connection)
        self._cancelling = Cancelling(connection, tenants)

    def erase(self, name: str) -> Erased:
        """Remove every trace of the request of this name, whatever its state. What a worker does with it now is
        kept nowhere, but may still be delivered.

        For a day Redis keeps the SHA-1 of its name.

        Raises:
            UsageError: this is no name of a request.
        """
        if not is_name(name):
            raise UsageError(f"{quoted(name)} is no request id")
        self._cancelling.take_in()
        letters = self._drop_letters(partial(_concerns, name))
        erased = self._erase(name)
        return erased.model_copy(update={"dead_letters": letters})

    def erase_tenant(self, tenant: str, *, keep_usage: bool = False) -> ErasedTenant:
        """Remove every trace of all requests of a tenant, as `erase` does, and of its usage. What comes of the tenant
        meanwhile is left.

        Raises:
            UsageError: this is no name of a tenant.
        """
        if not is_tenant(tenant):
            raise UsageError(f"{quoted(tenant)} is no tenant")
        self._cancelling.take_in()
        letters = self._drop_letters(partial(_concerns_tenant, tenant))
        samples = self._connection.run("erase_tenant", [tenant, *self._newer])
        found = [self._erase(name) for name in sorted(self._names(tenant))]
        return ErasedTenant(
            tenant=tenant,
            requests=len(found),
            verdicts=sum(one.verdict for one in found),
            scores=sum(one.scores for one in found),
            images=sum(one.image for one in found),
            dead_letters=len(letters),
            samples=samples + sum(one.samples for one in found),
            usage_days=0 if keep_usage else usage.forget(self._connection, tenant),
            s3_objects=tuple(uri for one in found for uri in one.s3_objects),
            s3_images=tuple(one.s3_image for one in found if one.s3_image is not None),
        )

    def _names(self, tenant: str) -> set[str]:
        """Names of all requests of a tenant of which anything is left."""
        key = self._connection.key
        tasks = [
            task for zset in (keys.OWED, keys.UNREAD) for task in self._connection.call("zrange", key(zset), 0, -1)
        ]
        found = {str(task).partition(":")[0] for task in tasks}
        with self._connection.redis() as redis:
            for place in (keys.request, keys.result, keys.image):
                begin = key(place(""))
                found |= {
                    str(name)[len(begin) :] for name in redis.scan_iter(match=f"{begin}{tenant}/*", count=_SCANNED)
                }
        return {name for name in found if name.startswith(f"{tenant}/") and is_name(name)}

    def _drop_letters(self, concerns: Callable[[str], bool]) -> tuple[str, ...]:
        kept = self._connection.call("hgetall", self._connection.key(keys.DEAD))
        letters = tuple(letter_id for letter_id, text in kept.items() if concerns(text))
        for letter_id in letters:
            self._dead.drop(letter_id)
        return letters

    @property
    def _newer(self) -> list[str]:
        return [self._connection.key(keys.newer(priority)) for priority in keys.PRIORITIES]

    def _erase(self, name: str) -> Erased:
        request, verdict, scores, samples, objects, address, image = self._connection.run(
            "erase", [name, _LATE_S, *self._newer]
        )
        return Erased(
            request_id=name,
            request=bool(request),
            verdict=bool(verdict),
            scores=bool(scores),
            image=bool(image),
            dead_letters=(),
            samples=samples,
            s3_objects=tuple(objects.splitlines()),
            s3_image=address or None,
        )


def _concerns(name: str, text: str) -> bool:
    """Whether a dead letter holds anything of a request. What cannot be read does if it holds the request's id."""
    read = _letter(text)
    if read is None:
        return _mentions(name.rpartition("/")[2], text)
    named, entry = read
    return name in named or name == name_of(entry.get("tenant"), entry.get("request_id", ""))


def _concerns_tenant(tenant: str, text: str) -> bool:
    """Whether a dead letter holds anything of a tenant. What cannot be read does if it holds the tenant's name."""
    read = _letter(text)
    if read is None:
        return _mentions(tenant, text)
    named, entry = read
    return tenant in (entry.get("tenant"), *map(tenant_of, named))


def _letter(text: str) -> tuple[tuple[str, str], dict[str, Any]] | None:
    """The names of requests that a dead letter tells, and the fields of its entry; None if it cannot be read."""
    try:
        letter = DeadLetter.model_validate_json(text)
        entry = json.loads(letter.message)
    except (ValueError, RecursionError):
        return None
    return (letter.request_id or "", (letter.task or "").partition(":")[0]), entry if isinstance(entry, dict) else {}


def _mentions(word: str, text: str) -> bool:
    return re.search(rf"(?<![A-Za-z0-9._-]){re.escape(word)}(?![A-Za-z0-9._-])", text) is not None
