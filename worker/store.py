"""What the worker keeps in Redis: the ledger of what is owed, verdicts, scores, and what it gave up.

The life of a task (scoring a request, or one delivery of its verdict; `producers.ledger` shows how it is written down):

    submit ──▶ queued ──begin──▶ with a worker ──┬─ publish (scored) ─▶ gone; a task for each delivery is queued
                 ▲                  │            ├─ finish (delivered) ─▶ gone; with the last one, settled
                 │                  │            ├─ later ─▶ waits until it is due ─┐
                 │                  │            ├─ bury ─▶ dead letter             │
                 │                  ▼            └─ release ────────────────────────┤
                 └──────────────── sweep ◀── overdue: lost on its way, its worker died, or due again

Each owed task has one time at which somebody must look after it: soon after it was queued, after the lease of the
worker that has it, or when it is due again. `sweep` puts what is overdue on its queue, what was lost in front of all. A
message that is still waiting there is told by the time at which its list's oldest was queued: along a list, these times
grow, so that a long queue never fills with copies.

A second copy of a message is worth nothing: `begin` lets nobody have a task that somebody has, that waits until it is
due, or that is gone. A worker that was thought dead and comes back may still publish, if it is the first to do so: the
verdict is set once, and its deliveries carry these very bytes. Anything else it does is ignored, because its run of the
task is not the last one.

A run that never ends properly took its worker along, or went with it. So many of them in a row make a poison task,
which is buried; from the second on, tasks that were lost together come again apart.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

from m3agiqa.contract import ScoreRequest, Verdict
from m3agiqa.errors import QueueUnavailable
from producers import keys, message
from producers.connection import connect, translated
from producers.dead import DeadLetter
from producers.ledger import State, delivery_task
from worker import scripts
from worker.deliver import Delivery
from worker.settings import Settings

logger = logging.getLogger(__name__)

#: About a minute: work already done is worth waiting for a Redis that restarts.
_RETRIES = 60
#: Overdue tasks queued by one run of the script, which blocks Redis meanwhile.
_SWEPT_AT_ONCE = 100


@dataclass(frozen=True)
class Lease:
    """What `begin` found."""

    task: str
    #: "begun": it is ours. "gone": it is done or given up. "taken": somebody has it, or it waits until it is due.
    #: "poison": too many runs never ended; it is for us to bury.
    outcome: Literal["begun", "gone", "taken", "poison"]
    #: Counts its beginnings, by all workers.
    run: int
    history: tuple[str, ...]
    #: When it was begun, seconds of the monotonic clock.
    since: float = field(default_factory=time.monotonic)


class Store:
    """Safe to share between threads. Every method raises QueueUnavailable if Redis stays away for about a minute."""

    def __init__(self, settings: Settings) -> None:
        self._url = settings.redis_url.get_secret_value()
        self._redis = connect(self._url, retries=_RETRIES)
        self._result_ttl_s = settings.result_ttl_s
        self._score_ttl_s = settings.score_cache_ttl_s
        self._longest_run_s = settings.effective_visibility_timeout_s
        self.lease_s = min(settings.lease_s, self._longest_run_s)
        self._max_lost_runs = settings.max_lost_runs
        self._begin = self._redis.register_script(scripts.BEGIN)
        self._renew = self._redis.register_script(scripts.RENEW)
        self._mark = self._redis.register_script(scripts.MARK)
        self._publish = self._redis.register_script(scripts.PUBLISH)
        self._finish = self._redis.register_script(scripts.FINISH)
        self._later = self._redis.register_script(scripts.LATER)
        self._bury = self._redis.register_script(scripts.BURY)
        self._sweep = self._redis.register_script(scripts.SWEEP)

    def begin_score(self, request: ScoreRequest, payload: Mapping[str, Any], *, retries: int) -> Lease:
        """Take the scoring of a request, which came as `payload`, for `lease_s` seconds."""
        task, priority = request.request_id, request.priority
        envelope = message.envelope(keys.SCORE_QUEUE, payload, task_id=task, priority=priority, retries=retries)
        return self._take(task, message.list_key(keys.SCORE_QUEUE, priority), envelope)

    def begin_delivery(self, delivery: Delivery) -> Lease:
        """Take a delivery, for `lease_s` seconds."""
        task = delivery_task(delivery.request_id, delivery.kind)
        return self._take(task, message.list_key(keys.DELIVER_QUEUE), deliver_message(delivery))

    def _take(self, task: str, list_key: str, envelope: str) -> Lease:
        arguments: list[str | int | float] = [task, list_key, envelope, self.lease_s, self._max_lost_runs, _whoami()]
        with translated(self._url):
            outcome, run, history = self._begin(args=arguments)
        return Lease(task, outcome, int(run), tuple(history.splitlines()))

    def renew(self, leases: Sequence[Lease]) -> None:
        """Keep tasks for another `lease_s` seconds, but none for longer than the visibility timeout in all."""
        now = time.monotonic()
        going = [lease for lease in leases if now - lease.since < self._longest_run_s]
        if going:
            with translated(self._url):
                self._renew(args=[self.lease_s, *(word for lease in going for word in (lease.task, lease.run))])

    def mark_scoring(self, lease: Lease) -> None:
        """Write down that the picture is fetched and waits for the model."""
        with translated(self._url):
            self._mark(args=[lease.task, lease.run, State.SCORING])

    def publish(self, verdict: Verdict, deliveries: Sequence[Delivery], letter: DeadLetter | None = None) -> bool:
        """Keep a verdict, announce it and enqueue its deliveries, beside a dead letter if there is one: all of it, or
        nothing if there is a verdict already.

        Says which.
        """
        arguments: list[str | int | float] = [verdict.request_id, verdict.model_dump_json(), self._result_ttl_s]
        arguments += ["", ""] if letter is None else [letter.id, letter.model_dump_json()]
        for delivery in deliveries:
            arguments += [delivery_task(delivery.request_id, delivery.kind), deliver_message(delivery)]
        with translated(self._url):
            published = int(self._publish(args=arguments))
        if published == 2:
            logger.error("Redis had lost request %s; its verdict is published all the same", verdict.request_id)
        return published > 0

    def finish(self, lease: Lease) -> None:
        """Write down that a delivery arrived."""
        with translated(self._url):
            self._finish(args=[lease.task, self._result_ttl_s])

    def score_later(self, lease: Lease, request: ScoreRequest, *, retries: int, delay_s: float, why: str) -> None:
        """Have a picture scored again in `delay_s` seconds; `retries` counts the attempts until then."""
        self._put_off(lease, message.score_message(request, retries=retries), delay_s, why)

    def deliver_later(self, lease: Lease, delivery: Delivery, *, delay_s: float, why: str) -> None:
        self._put_off(lease, deliver_message(delivery), delay_s, why)

    def release(self, lease: Lease, *, delay_s: float = 0.0, why: str) -> None:
        """Give a task back unchanged, to be taken again in `delay_s` seconds by anybody."""
        self._put_off(lease, "", delay_s, why)

    def _put_off(self, lease: Lease, envelope: str, delay_s: float, why: str) -> None:
        with translated(self._url):
            self._later(args=[lease.task, lease.run, envelope, delay_s, why, 1])

    def abandon(self, lease: Lease, *, why: str) -> None:
        """Give a task back that this worker cannot end any more; if that happens often, it is the task's fault."""
        with translated(self._url):
            self._later(args=[lease.task, lease.run, "", 0, why, 0])

    def bury(self, letter: DeadLetter, lease: Lease | None = None) -> None:
        """Make a dead letter of a message; without a `lease`, of one whose task nobody can take."""
        with translated(self._url):
            self._bury(args=[letter.task or "", lease.run if lease else "", letter.id, letter.model_dump_json()])

    def sweep(self) -> int:
        """Put what is overdue on its queue; returns how many tasks were overdue, 100 at most.

        Each is queued once, however many call. What cannot be read is set aside.
        """
        with translated(self._url):
            overdue, unread = self._sweep(args=[_SWEPT_AT_ONCE])
        if unread:
            logger.error("%d entries of the ledger cannot be read; ZRANGE %s 0 -1 names them", unread, keys.UNREAD)
        return int(overdue)

    def cached_scores(self, key: str) -> str | None:
        with translated(self._url):
            found = self._redis.get(keys.scores(key)) if self._score_ttl_s else None
        return None if found is None else str(found)

    def cache_scores(self, key: str, scores: str) -> None:
        if self._score_ttl_s:
            with translated(self._url):
                self._redis.set(keys.scores(key), scores, ex=self._score_ttl_s)

    def close(self) -> None:
        self._redis.close()


def deliver_message(delivery: Delivery) -> str:
    """The message that asks for a verdict to be delivered to one place."""
    return message.envelope(
        keys.DELIVER_QUEUE,
        delivery.model_dump(mode="json"),
        task_id=delivery_task(delivery.request_id, delivery.kind),
        parent_id=delivery.request_id,
        retries=delivery.attempt - 1,
    )


@cache
def _whoami() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


class Renewer:
    """A thread that renews the leases in `held`, as long as `alive` says that their work moves."""

    def __init__(self, store: Store, held: Callable[[], Sequence[Lease]], alive: Callable[[], bool]) -> None:
        self._store, self._held, self._alive = store, held, alive
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="renewer", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopping.wait(self._store.lease_s / 4):
            if self._alive():
                try:
                    self._store.renew(self._held())
                except QueueUnavailable as error:
                    logger.warning("leases could not be renewed: %s", error)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def stop(self) -> None:
        """Stop within a few seconds, even while Redis is away."""
        self._stopping.set()
        self._thread.join(timeout=5)


class Sweeper:
    """A thread that sweeps. Any number of workers may run one."""

    def __init__(self, store: Store, *, interval_s: float = 0.5) -> None:
        self._store = store
        self._interval_s = interval_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sweeper", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        redis_is_away = False
        while not self._stopping.wait(self._interval_s):
            try:
                while self._store.sweep() == _SWEPT_AT_ONCE and not self._stopping.is_set():
                    pass
                redis_is_away = False
            except QueueUnavailable as error:
                if not redis_is_away:  # once for each time it goes
                    logger.warning("nothing overdue is queued meanwhile: %s", error)
                redis_is_away = True

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def stop(self) -> None:
        """Stop within a few seconds, even while Redis is away."""
        self._stopping.set()
        self._thread.join(timeout=5)
