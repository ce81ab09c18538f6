"""Removes every trace of a request from Redis, for whoever must forget it."""

from __future__ import annotations

import json
import re

from pydantic import BaseModel, ConfigDict

from m3agiqa.contract import is_request_id
from m3agiqa.errors import UsageError
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
    #: Objects that workers wrote. They are still there: only who has rights to the bucket can remove them.
    s3_objects: tuple[str, ...]


class Erasing:
    """Erases requests. Methods raise QueueUnavailable as `Connection` does."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._dead = DeadLetters(connection)
        self._cancelling = Cancelling(connection)

    def erase(self, request_id: str) -> Erased:
        """Remove every trace of a request, whatever its state. What a worker does with it now is kept nowhere, but may
        still be delivered.

        For a day Redis keeps the SHA-1 of its id.

        Raises:
            UsageError: this is no request id.
        """
        if not is_request_id(request_id):
            raise UsageError(f"{quoted(request_id)} is no request id")
        self._cancelling.take_in()
        kept = self._connection.call("hgetall", self._connection.key(keys.DEAD))
        letters = [letter_id for letter_id, text in kept.items() if _concerns(text, request_id)]
        for letter_id in letters:
            self._dead.drop(letter_id)
        newer = [self._connection.key(keys.newer(priority)) for priority in keys.PRIORITIES]
        request, verdict, scores, samples, objects, image = self._connection.run("erase", [request_id, _LATE_S, *newer])
        return Erased(
            request_id=request_id,
            request=bool(request),
            verdict=bool(verdict),
            scores=bool(scores),
            image=bool(image),
            dead_letters=tuple(letters),
            samples=samples,
            s3_objects=tuple(objects.splitlines()),
        )


def _concerns(text: str, request_id: str) -> bool:
    """Whether a dead letter holds anything of a request. What cannot be read does if it holds the id."""
    try:
        letter = DeadLetter.model_validate_json(text)
        entry = json.loads(letter.message)
    except (ValueError, RecursionError):
        return re.search(rf"(?<![A-Za-z0-9._-]){re.escape(request_id)}(?![A-Za-z0-9._-])", text) is not None
    if request_id in (letter.request_id, (letter.task or "").partition(":")[0]):
        return True
    named = entry.get("request_id") if isinstance(entry, dict) else None
    return bool(named == request_id)
