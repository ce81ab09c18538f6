"""Delivers verdicts to their receivers."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from m3agiqa.errors import Busy, DeliveryMisconfigured
from m3agiqa.queue.claim import Claim
from m3agiqa.queue.ledger import Ledger
from worker.delivery.sender import Delivery, Sender, receiver_of
from worker.ops import tracing
from worker.ops.reporting import failure_of
from worker.ops.stages import with_stages
from worker.ops.steps import failed, step

if TYPE_CHECKING:
    from worker.ops.metrics import Metrics, Outcome

#: Part by which a delay grows at random at most, so that deliveries which failed together do not come back together.
_JITTER = 0.2
#: Seconds that a delivery is put off at most because its receiver is busy.
LONGEST_DELAY_S = 300.0
#: Attempts after the first where only an operator can help: a dead letter tells him more than hours of trying.
RETRIES_IF_MISCONFIGURED = 3


@dataclass(frozen=True)
class DeliveryHandler:
    """Runs one delivery of a verdict. `retry_delays_s` are the seconds to wait after the first, second ... attempt that
    failed.
    """

    ledger: Ledger
    sender: Sender
    retry_delays_s: Sequence[float]
    metrics: Metrics | None = None

    def run(self, task: str) -> str:
        """Deliver a verdict. A failure that may pass is tried again later; any other makes the delivery a dead letter.
        Returns what was done, for the log and Flower: no URL.

        Raises:
            NotOwed: there is nothing to do.
            Busy: the receiver has all threads it may have; the delivery comes again.
            QueueUnavailable: Redis did not take the outcome; the delivery comes again.
        """
        with self.ledger.claim(task) as claim, tracing.task(claim):
            if claim.poisoned:
                claim.bury(claim.poison)
                return "poison, given up"
            receiver = receiver_of(_place(claim) or "")
            try:
                with step("deliver"):
                    written = self.sender.send(_delivery(claim))
            except Busy:
                raise
            except Exception as error:
                said = self._failed(claim, receiver, error)
            else:
                claim.delivered(receiver, written)
                self._count(claim, receiver, "delivered")
                said = "delivered"
            return with_stages(said, {"deliver": 1000 * (time.monotonic() - claim.since)})

    def _failed(self, claim: Claim, receiver: str, error: Exception) -> str:
        failed(failure := failure_of(error, claim.request.name))
        delays_s = self.retry_delays_s
        if isinstance(error, DeliveryMisconfigured):
            delays_s = delays_s[:RETRIES_IF_MISCONFIGURED]
        if failure.retryable and claim.attempt <= len(delays_s):
            asked_for_s = getattr(error, "retry_after_s", None) or 0.0
            delay_s = max(delays_s[claim.attempt - 1], asked_for_s) * random.uniform(1, 1 + _JITTER)
            claim.postpone(delay_s, failure.message, receiver)
            self._count(claim, receiver, "retried")
            return f"{failure.code}, again in {delay_s:.1f} s"
        claim.bury(error, receiver)
        self._count(claim, receiver, "dead")
        return f"{failure.code}, given up"

    def _count(self, claim: Claim, receiver: str, outcome: Outcome) -> None:
        if self.metrics is not None:
            self.metrics.attempted(claim, receiver, outcome)


def _place(claim: Claim) -> str | None:
    """Where the request says that this delivery goes."""
    return claim.request.callback_url if claim.kind == "callback" else claim.request.s3_uri


def _delivery(claim: Claim) -> Delivery:
    request, url = claim.request, _place(claim)
    assert url is not None, "a delivery is owed where the request says where to"
    span = tracing.traceparent() or request.traceparent
    return Delivery(request.name, claim.kind, url, claim.verdict, request.submitted_at, span, retries=claim.retries)
