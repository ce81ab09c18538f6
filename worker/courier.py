"""Takes verdicts to their receivers, so that one that is slow or dead keeps no other waiting."""

from __future__ import annotations

import random
import re
import threading
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass

from producers import keys
from producers.dead import DeadLetter
from worker.deliver import Delivery, Sender
from worker.http import endpoint_of
from worker.moderator import failure_of
from worker.settings import Settings
from worker.store import Lease, Store, deliver_message

#: Delays grow by up to this part at random, so that what failed together does not come back together.
_JITTER = 0.2
#: Seconds that a delivery waits for a busy receiver before it asks again, at least and at most.
_BUSY_S = (0.1, 300.0)


@dataclass
class _Place:
    busy: int = 0
    #: Turned away since somebody last left.
    turned_away: int = 0
    #: Mean seconds of an exchange, the last ones weighing most.
    mean_s: float = 0.1


class Slots:
    """Lets at most `limit` at once into each place. Safe to share among threads."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._places: defaultdict[str, _Place] = defaultdict(_Place)

    def enter(self, name: str) -> float:
        """0 if there was room; otherwise the seconds after which there may be."""
        with self._lock:
            place = self._places[name]
            if place.busy < self._limit:
                place.busy += 1
                return 0.0
            place.turned_away += 1
            expected_s = place.mean_s * place.turned_away / self._limit
        return min(max(expected_s * random.uniform(1, 1 + _JITTER), _BUSY_S[0]), _BUSY_S[1])

    def leave(self, name: str, took_s: float) -> None:
        with self._lock:
            place = self._places[name]
            place.busy -= 1
            place.turned_away = 0
            place.mean_s += (took_s - place.mean_s) / 4
            if not place.busy and place.mean_s < 1:
                del self._places[name]


def receiver(url: str) -> str:
    """Endpoint of a callback, or bucket. A malformed URL is the sender's to refuse."""
    with suppress(ValueError):
        return endpoint_of(url)
    return re.split(r"[/?#]", url.partition("//")[2], maxsplit=1)[0].lower()


@dataclass(frozen=True)
class Courier:
    """Takes a verdict to one place. Methods return, in a few words, what was done."""

    settings: Settings
    store: Store
    sender: Sender
    slots: Slots

    def handle(self, delivery: Delivery, lease: Lease) -> str:
        """Deliver; what may work later is tried again later, everything else becomes a dead letter.

        Raises:
            QueueUnavailable: the outcome could not be kept; the delivery must be handled again.
        """
        place = receiver(delivery.url)
        if busy_s := self.slots.enter(place):
            self.store.release(lease, delay_s=busy_s, why="its receiver is busy")
            return f"its receiver is busy, again in {busy_s:.1f} s"
        began = time.monotonic()
        try:
            self.sender.send(delivery)
        except Exception as error:
            return self._failed(delivery, lease, error)
        finally:
            self.slots.leave(place, time.monotonic() - began)
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
