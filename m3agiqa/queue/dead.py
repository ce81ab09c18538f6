"""Dead letters: what workers gave up, as it lies in Redis, and what an operator does with it."""

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

#: What is kept of a text that never became a task: enough to see what it was, and no more.
KEPT_CHARS = 65_536


class DeadLetter(BaseModel):
    """Something nobody works on any more, and why. Its `message` may hold a prompt and URLs.

    Fields that a later version added are ignored.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str = Field(default_factory=lambda: uuid.uuid4().hex[:12])
    #: The list it came from: of an inbox, or a queue.
    queue: str
    #: None if it does not tell.
    request_id: str | None
    #: What it was about: a "request" that never became a task, "score", or "callback" or "s3" for a delivery.
    kind: str
    #: Code and words of the failure, see `m3agiqa.errors`.
    code: str
    reason: str
    attempts: int = Field(ge=1)
    died_at: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC))
    #: Its name in the ledger; None if it never got there.
    task: str | None = None
    #: What the ledger has about its request, a line an event, the newest last.
    history: tuple[str, ...] = ()
    #: The request as JSON, or, if it never became a task, what lay in the inbox.
    message: str
    #: Whether `message` is not all of it as it came: it was too large, or no UTF-8.
    cut: bool = False

    @classmethod
    def from_entry(cls, inbox: str, text: str, size_bytes: int, failure: Failure, request_id: str | None) -> Self:
        """A dead letter for `text`, the beginning of what lay in an inbox in so many bytes."""
        # As it can be written down: what is no UTF-8 came as halves of surrogate pairs.
        readable = text.encode(errors="surrogateescape").decode(errors="backslashreplace")
        return cls(
            queue=inbox,
            request_id=request_id,
            kind="request",
            code=failure.code,
            reason=failure.message,
            attempts=1,
            message=readable[:KEPT_CHARS],
            # A message that is not kept as it came must not be put back.
            cut=readable != text or size_bytes > len(text.encode()) or len(readable) > KEPT_CHARS,
        )


class DeadLetters:
    """Reads dead letters, puts them back, and forgets them. Methods raise QueueUnavailable as `Connection` does."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def all(self) -> Iterator[DeadLetter]:
        """Every dead letter, the newest first; one that cannot be read is named in the log and left out."""
        letters = []
        for letter_id, text in self._connection.call("hgetall", keys.DEAD).items():
            try:
                letters.append(DeadLetter.model_validate_json(text))
            except ValidationError:
                logger.warning("dead letter %s cannot be read; `dead drop` forgets it", quoted(letter_id))
        yield from sorted(letters, key=lambda letter: letter.died_at, reverse=True)

    def get(self, letter_id: str) -> DeadLetter:
        """Raises UsageError if there is none, or none that can be read."""
        found = self._connection.call("hget", keys.DEAD, letter_id)
        if found is None:
            raise UsageError(f"no dead letter {quoted(letter_id)}; `m3agiqa-submit dead list` shows those there are")
        try:
            return DeadLetter.model_validate_json(str(found))
        except ValidationError:
            raise UsageError(f"dead letter {quoted(letter_id)} cannot be read; it can only be dropped") from None

    def replay(self, letter: DeadLetter) -> bool:
        """Put one back, with all its attempts; False if it is no dead letter any more.

        Raises:
            UsageError: only its beginning was kept, its request was answered, or nothing is known of it any more.
        """
        if letter.cut:
            raise UsageError(
                f"dead letter {letter.id} was too large or no UTF-8, so it was not kept whole; it can only be dropped"
            )
        if letter.task is None and letter.queue not in map(keys.inbox, keys.PRIORITIES):
            raise UsageError(f"dead letter {letter.id} came from no inbox; it can only be dropped")
        replayed = self._connection.run("replay", [letter.id, letter.task or "", letter.queue, letter.message])
        if replayed == -1:
            raise UsageError("its request was answered with a failure; submit the image again under a new id")
        if replayed == -2:
            raise UsageError("its request is forgotten; submit the image again")
        return bool(replayed)

    def drop(self, letter_id: str) -> bool:
        """Forget one, also if it cannot be read; False if it was gone already."""
        try:
            task = self.get(letter_id).task or ""
        except UsageError:
            task = ""
        return bool(self._connection.run("drop", [letter_id, task]))
