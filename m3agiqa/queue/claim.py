"""A claim: a task that a worker has, and the ways in which it may end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from m3agiqa.contract import Failure, ScoreRequest, Verdict
from m3agiqa.errors import PoisonTask
from m3agiqa.queue import keys
from m3agiqa.queue.dead import DeadLetter
from m3agiqa.queue.state import State

if TYPE_CHECKING:
    from m3agiqa.queue.ledger import Ledger

_POISON = PoisonTask("its runs never ended: it kills its workers, or takes longer than a lease")


class Claims(Protocol):
    """What gives claims: the ledger, or what stands in for it."""

    def claim(self, task: str) -> AbstractContextManager[Claim]: ...


@dataclass(frozen=True)
class Claim:
    """A task that this worker has. Methods raise QueueUnavailable if Redis stays away for about a minute."""

    ledger: Ledger
    task: str
    #: "score", "callback" or "s3".
    kind: str
    #: Number of this run, counted over all workers.
    run: int
    #: Number of this attempt, from 1. A run that was lost or put off was no attempt.
    attempt: int
    request: ScoreRequest
    #: The verdict to deliver, as JSON; empty while there is none.
    verdict: str
    history: tuple[str, ...]
    #: How often the request was tried anew after a failure.
    retries: int = 0
    #: Whether too many runs did not end, so that the task must be given up.
    poisoned: bool = False
    #: When this run began, seconds of the monotonic clock.
    since: float = field(default_factory=time.monotonic)

    def mark_scoring(self) -> None:
        """Record that the image is fetched and waits for the model."""
        self.ledger.mark(self, State.SCORING, "score has the image, waits for the model")

    def publish(self, verdict: Verdict, remembered: Sequence[str] = ()) -> bool:
        """Keep the verdict, announce it and owe its deliveries. False, and nothing is done, if there is a verdict
        already, or the request was erased.

        A poisoned task becomes a dead letter too. `remembered` are the keys under which its scores may be remembered.
        """
        letter = self.dead_letter(_POISON) if self.poisoned else None
        return self.ledger.publish(self, verdict, letter, remembered)

    def delivered(self, receiver: str = "", written: str = "") -> None:
        """Record that the verdict arrived, which object was written, if one was, and that its receiver, if it has a
        name, fails no more.
        """
        self.ledger.settle(self, receiver, written)

    def postpone(self, delay_s: float, why: str, receiver: str = "") -> None:
        """End this attempt; the next one is due in `delay_s` seconds. A `receiver` that is named is one that failed."""
        self.ledger.postpone(self, delay_s, why, attempted=True, receiver=receiver)

    def release(self, delay_s: float = 0.0, *, why: str) -> None:
        """Give the task back without counting an attempt; any worker may take it in `delay_s` seconds."""
        self.ledger.postpone(self, delay_s, why)

    def abandon(self, why: str) -> None:
        """Give back a task that this worker cannot finish; the run counts as lost, as the task may be to blame."""
        self.ledger.postpone(self, 0.0, why, fair=False)

    def bury(self, error: Exception, receiver: str = "") -> None:
        """Give the task up: it becomes a dead letter. A `receiver` that is named is one that failed."""
        self.ledger.bury(self, self.dead_letter(error), receiver)

    def dead_letter(self, error: Exception) -> DeadLetter:
        failure = Failure.from_error(error)
        return DeadLetter(
            queue=keys.SCORE_QUEUE if self.kind == "score" else keys.DELIVER_QUEUE,
            request_id=self.request.name,
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
