"""What a worker gave up, as it lies in Redis."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field


class DeadLetter(BaseModel):
    """A message nobody works on any more, and why. Its `message` may hold a prompt and URLs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(default_factory=lambda: uuid.uuid4().hex[:12])
    #: The queue it was taken from.
    queue: str
    #: None if the message does not tell.
    request_id: str | None
    #: What it was about: "callback" or "s3" for a delivery.
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
    #: As it stood on the queue, to be put back there.
    message: str
    #: Whether `message` is only the beginning of one too large to keep.
    cut: bool = False
