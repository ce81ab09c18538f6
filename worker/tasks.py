"""The two tasks, and what keeps their messages from getting lost."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery.exceptions import Reject
from celery.worker.request import Request

from m3agiqa.contract import Failure, is_request_id
from m3agiqa.errors import InternalError, PoisonTask, QueueUnavailable, RequestInvalid
from producers import keys, message
from producers.dead import DeadLetter
from worker.app import app
from worker.courier import Courier
from worker.deliver import Delivery
from worker.moderator import Moderator, understood
from worker.store import Lease, Store

logger = logging.getLogger(__name__)

#: Seconds before a message that Redis would not let us finish is taken again.
_PAUSE_S = (0.5, 2.0)


class PrivateRequest(Request):  # type: ignore[misc]
    """Shows monitors no arguments, whatever the producer wrote into the message for them to show."""

    def __init__(self, message: Any, **options: Any) -> None:
        super().__init__(message, **options)
        self._argsrepr = "(...)"
        self._kwargsrepr = "{}"

    def info(self, safe: bool = False) -> Any:
        return super().info(safe=True)


class Hands:
    """The leases that this process holds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._leases: dict[str, Lease] = {}

    @contextmanager
    def holding(self, lease: Lease) -> Iterator[None]:
        with self._lock:
            self._leases[lease.task] = lease
        try:
            yield
        finally:
            with self._lock:
                self._leases.pop(lease.task, None)

    def held(self) -> list[Lease]:
        with self._lock:
            return list(self._leases.values())


hands = Hands()


@contextmanager
def _never_lost(store: Store, queue: str, payload: dict[str, Any], task: str) -> Iterator[None]:
    """Celery forgets a task that raises: see to it that its message stays somewhere."""
    try:
        try:
            yield
        except QueueUnavailable:
            raise
        except Exception as error:
            if not isinstance(error, RequestInvalid):
                logger.exception("a message on %s becomes a dead letter", queue)
            store.bury(_dead(queue, payload, Failure.of(error), task))
    except QueueUnavailable as error:
        logger.error("back on the queue: %s", error)
        # Not at once: it would be taken again at once, over and over as long as Redis refuses.
        time.sleep(random.uniform(*_PAUSE_S))
        raise Reject(str(error), requeue=True) from None


@contextmanager
def _given_back(store: Store, lease: Lease) -> Iterator[None]:
    """Let others have a task at once whose outcome Redis would not take. If it does not take that either, the lease
    ends by itself.
    """
    try:
        with hands.holding(lease):
            yield
    except QueueUnavailable:
        store.release(lease, why="its outcome could not be kept")
        raise


_POISON = PoisonTask("its runs never ended: it kills its workers, or takes longer than a lease")


def _poison(queue: str, payload: dict[str, Any], lease: Lease) -> DeadLetter:
    return _dead(queue, payload, Failure.of(_POISON), lease.task, lease)


def _dead(queue: str, payload: dict[str, Any], failure: Failure, task: str, lease: Lease | None = None) -> DeadLetter:
    request_id = payload.get("request_id")
    priority = payload.get("priority")
    if type(priority) is not int or priority not in message.PRIORITY_STEPS:
        priority = 0
    return DeadLetter(
        queue=queue,
        # One that breaks the rules may hold what no JSON can, or fill a screen.
        request_id=str(request_id) if is_request_id(request_id) else None,
        kind="message",
        code=failure.code,
        reason=failure.message,
        attempts=max(1, lease.run if lease else 1),
        task=task,
        history=lease.history if lease else (),
        message=message.envelope(queue, payload, task_id=task, priority=priority),
    )


@app.task(name=keys.SCORE_TASK, bind=True, Request=f"{__name__}:{PrivateRequest.__name__}")  # type: ignore[untyped-decorator]
def score(task: Any, payload: dict[str, Any]) -> str | None:
    moderator: Moderator = task.moderator
    store, retries = moderator.store, task.request.retries
    with _never_lost(store, keys.SCORE_QUEUE, payload, task.request.id):
        request, invalid = understood(payload)
        if request is None:
            raise invalid or InternalError("a request is valid or not")
        lease = store.begin_score(request, payload, retries=retries)
        if lease.outcome == "poison":
            return moderator.give_up(request, _POISON, retries + 1, _poison(keys.SCORE_QUEUE, payload, lease))
        if lease.outcome != "begun":
            return f"a copy: its task is {lease.outcome}"
        with _given_back(store, lease):
            if invalid is not None:
                return moderator.refuse(request, invalid, retries + 1)
            return moderator.handle(request, retries + 1, lease)
    return None


@app.task(name=keys.DELIVER_TASK, bind=True, Request=f"{__name__}:{PrivateRequest.__name__}")  # type: ignore[untyped-decorator]
def deliver(task: Any, payload: dict[str, Any]) -> str | None:
    courier: Courier = task.courier
    store = courier.store
    with _never_lost(store, keys.DELIVER_QUEUE, payload, task.request.id):
        delivery = Delivery.parse(payload)
        lease = store.begin_delivery(delivery)
        if lease.outcome == "poison":
            store.bury(_poison(keys.DELIVER_QUEUE, payload, lease), lease)
            return "poison, given up"
        if lease.outcome != "begun":
            return f"a copy: its task is {lease.outcome}"
        with _given_back(store, lease):
            return courier.handle(delivery, lease)
    return None
