"""Dead letters: what workers gave up. An operator reads them, puts them back, or forgets them."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from m3agiqa.contract import Failure
from m3agiqa.errors import UsageError
from m3agiqa.queue import keys
from m3agiqa.queue.connection import Connection
from m3agiqa.quoting import quoted

logger = logging.getLogger(__name__)

#: Characters to keep of an inbox entry that never became a task.
KEPT_CHARS = 65_536


class DeadLetter(BaseModel):
    """Something that workers gave up, and why. Its `message` may hold a prompt and URLs.

    Readers ignore fields that a later version added.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str = Field(default_factory=lambda: uuid.uuid4().hex[:12])
    #: The list it came from, without a namespace: an inbox or a queue.
    queue: str
    #: The name of its request, with a tenant `TENANT/ID`; None if the entry has no valid one.
    request_id: str | None
    #: What was given up: a "request" that never became a task, a "score", or a delivery ("callback" or "s3").
    kind: str
    #: Code and message of the failure, see `m3agiqa.errors`.
    code: str
    reason: str
    attempts: int = Field(ge=1)
    died_at: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC))
    #: The task's name in the ledger; None if it never got there.
    task: str | None = None
    #: History of the request from the ledger: a line for each event, the newest last.
    history: tuple[str, ...] = ()
    #: The request as JSON; if it never became a task, the entry as it lay in the inbox.
    message: str
    #: Whether `message` differs from what came, because that was too large or no UTF-8.
    cut: bool = False

    @classmethod
    def from_entry(cls, inbox: str, text: str, size_bytes: int, failure: Failure, request_id: str | None) -> Self:
        """A dead letter for an entry of `inbox`; `text` is its beginning, `size_bytes` the size of all of it."""
        # Bytes that are no UTF-8 came as halves of surrogate pairs, which JSON cannot hold.
        readable = text.encode(errors="surrogateescape").decode(errors="backslashreplace")
        return cls(
            queue=inbox,
            request_id=request_id,
            kind="request",
            code=failure.code,
            reason=failure.message,
            attempts=1,
            message=readable[:KEPT_CHARS],
            # A message that differs from what came must not be put back.
            cut=readable != text or size_bytes > len(text.encode()) or len(readable) > KEPT_CHARS,
        )


class DeadLetters:
    """Reads dead letters, puts them back, and forgets them. Methods raise QueueUnavailable as `Connection` does."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def all(self) -> Iterator[DeadLetter]:
        """Every dead letter, the newest first. The log names those that cannot be read."""
        letters = []
        for letter_id, text in self._connection.call("hgetall", self._connection.key(keys.DEAD)).items():
            try:
                letters.append(DeadLetter.model_validate_json(text))
            except ValidationError:
                logger.warning("dead letter %s cannot be read; `dead drop` forgets it", quoted(letter_id))
        yield from sorted(letters, key=lambda letter: letter.died_at, reverse=True)

    def get(self, letter_id: str) -> DeadLetter:
        """One dead letter. Raises UsageError if there is none of this id, or if it cannot be read."""
        found = self._connection.call("hget", self._connection.key(keys.DEAD), letter_id)
        if found is None:
            raise UsageError(f"no dead letter {quoted(letter_id)}; `m3agiqa-submit dead list` shows those there are")
        try:
            return DeadLetter.model_validate_json(str(found))
        except ValidationError:
            raise UsageError(f"dead letter {quoted(letter_id)} cannot be read; it can only be dropped") from None

    def replay(self, letter: DeadLetter) -> bool:
        """Put one back, with as many attempts as a new one. False if it is no dead letter any more.

        Raises:
            UsageError: it was not kept whole, its request was answered meanwhile, or its request is forgotten.
        """
        if letter.cut:
            raise UsageError(
                f"dead letter {letter.id} was too large or no UTF-8, so it was not kept whole; it can only be dropped"
            )
        if letter.task is None and letter.queue not in map(keys.inbox, keys.PRIORITIES):
            raise UsageError(f"dead letter {letter.id} came from no inbox; it can only be dropped")
        inbox = self._connection.key(letter.queue)
        replayed = self._connection.run("replay", [letter.id, letter.task or "", inbox, letter.message])
        if replayed == -1:
            raise UsageError("its request was answered with a failure; submit the image again under a new id")
        if replayed == -2:
            raise UsageError("its request is forgotten; submit the image again")
        return bool(replayed)

    def drop(self, letter_id: str) -> bool:
        """Forget one, even if it cannot be read. False if there is none of this id."""
        try:
            task = self.get(letter_id).task or ""
        except UsageError:
            task = ""
        return bool(self._connection.run("drop", [letter_id, task]))
