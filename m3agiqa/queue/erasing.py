"""Removes every trace of a request from Redis, for whoever must forget it."""

from __future__ import annotations

import json
import re

from pydantic import BaseModel, ConfigDict

from m3agiqa.errors import UsageError
from m3agiqa.fields import is_name, name_of
from m3agiqa.queue import keys
from m3agiqa.queue.cancelling import Cancelling
from m3agiqa.queue.connection import Connection
from m3agiqa.queue.dead import DeadLetter, DeadLetters
from m3agiqa.quoting import quoted

#: Seconds for which a verdict that a worker still makes of an erased request is not kept: longer than any run takes.
_LATE_S = 86_400


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


class Erasing:
    """Erases requests. Methods raise QueueUnavailable as `Connection` does."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._dead = DeadLetters(connection)
        self._cancelling = Cancelling(connection)

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
        kept = self._connection.call("hgetall", self._connection.key(keys.DEAD))
        letters = [letter_id for letter_id, text in kept.items() if _concerns(text, name)]
        for letter_id in letters:
            self._dead.drop(letter_id)
        newer = [self._connection.key(keys.newer(priority)) for priority in keys.PRIORITIES]
        request, verdict, scores, samples, objects, address, image = self._connection.run(
            "erase", [name, _LATE_S, *newer]
        )
        return Erased(
            request_id=name,
            request=bool(request),
            verdict=bool(verdict),
            scores=bool(scores),
            image=bool(image),
            dead_letters=tuple(letters),
            samples=samples,
            s3_objects=tuple(objects.splitlines()),
            s3_image=address or None,
        )


def _concerns(text: str, name: str) -> bool:
    """Whether a dead letter holds anything of a request. What cannot be read does if it holds the request's id."""
    try:
        letter = DeadLetter.model_validate_json(text)
        entry = json.loads(letter.message)
    except (ValueError, RecursionError):
        request_id = name.rpartition("/")[2]
        return re.search(rf"(?<![A-Za-z0-9._-]){re.escape(request_id)}(?![A-Za-z0-9._-])", text) is not None
    if name in (letter.request_id, (letter.task or "").partition(":")[0]):
        return True
    return isinstance(entry, dict) and name == name_of(entry.get("tenant"), entry.get("request_id", ""))
