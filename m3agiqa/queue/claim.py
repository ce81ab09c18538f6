"""A task that a worker has, and what it may do with it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from m3agiqa.contract import Failure, ScoreRequest, Verdict
from m3agiqa.errors import PoisonTask
from m3agiqa.queue import keys
from m3agiqa.queue.dead import DeadLetter
from m3agiqa.queue.state import State

if TYPE_CHECKING:
    from m3agiqa.queue.ledger import Ledger

_POISON = PoisonTask("its runs never ended: it kills its workers, or takes longer than a lease")


@dataclass(frozen=True)
class Claim:
    """A task that this worker has. Its methods raise QueueUnavailable if Redis stays away for about a minute."""

    ledger: Ledger
    task: str
    #: "score", "callback" or "s3".
    kind: str
    #: Counts its beginnings, by all workers.
    run: int
    #: Counts from 1; a run that was lost or put off counts for none.
    attempt: int
    request: ScoreRequest
    #: The verdict to deliver, as JSON; empty while there is none.
    verdict: str
    history: tuple[str, ...]
    #: Too many runs never ended: it is to be given up.
    poisoned: bool = False
    #: When it was begun, seconds of the monotonic clock.
    since: float = field(default_factory=time.monotonic)

    def mark_scoring(self) -> None:
        """Write down that the image is fetched and waits for the model."""
        self.ledger.mark(self, State.SCORING)

    def publish(self, verdict: Verdict) -> bool:
        """Keep a verdict, announce it and owe its deliveries: all of it, or nothing if there is a verdict already.

        Says which. A poisoned task becomes a dead letter beside it.
        """
        return self.ledger.publish(self, verdict, self.dead_letter(_POISON) if self.poisoned else None)

    def delivered(self) -> None:
        self.ledger.settle(self)

    def postpone(self, delay_s: float, why: str) -> None:
        """This attempt ended; the next one comes in `delay_s` seconds."""
        self.ledger.postpone(self, delay_s, why, attempted=True)

    def release(self, delay_s: float = 0.0, *, why: str) -> None:
        """Give it back unchanged, to be taken again in `delay_s` seconds by anybody."""
        self.ledger.postpone(self, delay_s, why)

    def abandon(self, why: str) -> None:
        """Give back what this worker cannot end any more; if that happens often, it is the task's fault."""
        self.ledger.postpone(self, 0.0, why, fair=False)

    def bury(self, error: Exception) -> None:
        """Give it up: it becomes a dead letter."""
        self.ledger.bury(self, self.dead_letter(error))

    def dead_letter(self, error: Exception) -> DeadLetter:
        failure = Failure.of(error)
        return DeadLetter(
            queue=keys.SCORE_QUEUE if self.kind == "score" else keys.DELIVER_QUEUE,
            request_id=self.request.request_id,
            kind=self.kind,
            code=failure.code,
            reason=failure.message,
            attempts=max(1, self.run if self.poisoned else self.attempt),
            task=self.task,
            history=self.history,
            message=self.request.to_json(),
        )

    @property
    def poison(self) -> PoisonTask:
        return _POISON
