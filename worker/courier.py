"""Takes verdicts to their receivers."""

from __future__ import annotations

import random
from dataclasses import dataclass

from m3agiqa.errors import Busy
from producers import keys
from producers.dead import DeadLetter
from worker.deliver import Delivery, Sender
from worker.moderator import failure_of
from worker.settings import Settings
from worker.store import Lease, Store, deliver_message

#: Delays grow by up to this part at random, so that what failed together does not come back together.
_JITTER = 0.2
#: Seconds that a delivery is put off for a busy receiver, at most.
LONGEST_DELAY_S = 300.0


@dataclass(frozen=True)
class Courier:
    """Takes a verdict to one place. Methods return, in a few words, what was done."""

    settings: Settings
    store: Store
    sender: Sender

    def handle(self, delivery: Delivery, lease: Lease) -> str:
        """Deliver; what may work later is tried again later, everything else becomes a dead letter.

        Raises:
            QueueUnavailable: the outcome could not be kept; the delivery must be handled again.
        """
        try:
            self.sender.send(delivery)
        except Busy as busy:
            self.store.release(lease, delay_s=busy.delay_s, why=str(busy))
            return f"{busy}, again in {busy.delay_s:.1f} s"
        except Exception as error:
            return self._failed(delivery, lease, error)
        self.store.finish(lease)
        return "delivered"

    def _failed(self, delivery: Delivery, lease: Lease, error: Exception) -> str:
        failure = failure_of(error, delivery.request_id)
        delays = self.settings.deliver_retry_delays_s
        if failure.retryable and delivery.attempt <= len(delays):
            asked_for_s = getattr(error, "retry_after_s", None) or 0.0
            delay_s = max(delays[delivery.attempt - 1], asked_for_s) * random.uniform(1, 1 + _JITTER)
            again = delivery.model_copy(update={"attempt": delivery.attempt + 1})
            self.store.deliver_later(lease, again, delay_s=delay_s, why=failure.message)
            return f"{failure.code}, again in {delay_s:.1f} s"

        letter = DeadLetter(
            queue=keys.DELIVER_QUEUE,
            request_id=delivery.request_id,
            kind=delivery.kind,
            code=failure.code,
            reason=failure.message,
            attempts=delivery.attempt,
            task=lease.task,
            history=lease.history,
            message=deliver_message(delivery.model_copy(update={"attempt": 1})),
        )
        self.store.bury(letter, lease)
        return f"{failure.code}, given up"
