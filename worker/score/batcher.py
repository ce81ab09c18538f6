"""Gathers images from many threads into batches for the one thread that may use the model."""

from __future__ import annotations

import itertools
import logging
import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from m3agiqa.contract import Failure, Priority
from m3agiqa.errors import DeviceLost, InternalError, ScoringTimeout
from m3agiqa.jobs import Job, Scores
from worker.score.turns import END, Turns, Waiting

if TYPE_CHECKING:
    from m3agiqa.scorer import Scoring
    from worker.ops.metrics import Metrics

logger = logging.getLogger(__name__)

#: Seconds that an image waits longer for each point of its priority: a 0 overtakes a 3 that came up to 15 s before it,
#: and a 9 that came up to 45 s before it. A batch takes less, so urgent images go first, yet no image waits for ever.
STEP_S = 5.0

#: Seconds that a batch which is not full waits at most for images that are being opened: they come within
#: milliseconds, and a batch of their own would take a second.
GRACE_S = 1.0
#: Seconds between two looks whether an image is still being opened.
_LOOK_S = 0.005

#: Seconds between two results that are handed out while the next batch is scored. Each result wakes a thread, which
#: answers and takes another request; if all woke at once, the thread that scores would wait for the interpreter.
PAUSE_S = 0.05
#: Part of the time that a batch took, within which all of its results are handed out.
SPREAD = 0.4


class Expected:
    """Counts the threads that are opening an image for the next batch: each does so in `with expected:`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0

    def __bool__(self) -> bool:
        return self._count > 0

    def __enter__(self) -> None:
        with self._lock:
            self._count += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._count -= 1


@dataclass(frozen=True)
class _Scored:
    """A result to hand out at `due`, seconds of the monotonic clock, or earlier if no batch is being scored."""

    due: float
    future: Future[Scores | Failure]
    result: Scores | Failure


class Batcher:
    """Scores a batch when it has `max_batch` images, or when its first has waited `max_wait_s` seconds and no other is
    being opened.

    Where more images wait than fit, the more urgent go first, and among equals the one that came first; but no tenant's
    images keep another's out of a batch.
    """

    def __init__(self, scoring: Scoring, *, max_batch: int, max_wait_s: float) -> None:
        self.scoring = scoring
        #: Batches wait for the threads inside it, so a thread enters it for milliseconds only.
        self.expected = Expected()
        #: Hears of each batch, from the moment it is set.
        self.metrics: Metrics | None = None
        self._max_batch = max_batch
        self._max_wait_s = max_wait_s
        self._queue = Turns()
        self._numbers = itertools.count()
        self._scored: queue.SimpleQueue[_Scored | None] = queue.SimpleQueue()
        self._idle = threading.Event()
        self._began: float | None = None
        self._lost = False
        self._threads = [
            threading.Thread(target=run, name=name, daemon=True)
            for run, name in ((self._run, "batcher"), (self._hand_out, "results"))
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, job: Job, priority: Priority = 3, tenant: str | None = None) -> Future[Scores | Failure]:
        """Queue a job; its future will hold what the scorer returned for it, or a Failure if the scorer raised.

        The caller's thread prepares the job (what needs no model) while the model works on other jobs.
        """
        [future] = self.submit_together([job], priority, tenant)
        return future

    def submit_together(
        self, jobs: Sequence[Job], priority: Priority = 3, tenant: str | None = None
    ) -> list[Future[Scores | Failure]]:
        """Queue several jobs as `submit` does, so that they fill batches together."""
        began = time.monotonic()
        futures: list[Future[Scores | Failure]] = [Future() for _ in jobs]
        with self.expected:
            prepared = [self.scoring.prepare(job) for job in jobs]
            since = time.monotonic()
            for job, future in zip(prepared, futures, strict=True):
                due = since + priority * STEP_S
                self._queue.put(Waiting(due, next(self._numbers), job, future, since, since - began, tenant))
        return futures

    def score(self, job: Job, timeout_s: float, priority: Priority = 3, tenant: str | None = None) -> Scores | Failure:
        """Submit a job and wait for its outcome.

        Raises:
            ScoringTimeout: there is none within `timeout_s` seconds.
        """
        until = time.monotonic() + timeout_s
        future = self.submit(job, priority, tenant)
        try:
            return future.result(until - time.monotonic())
        except FutureTimeout:
            future.cancel()
            raise ScoringTimeout(f"no score within {timeout_s:g} s") from None

    def alive(self, longest_batch_s: float) -> bool:
        """Whether its threads run, its device is there, and no batch has taken over `longest_batch_s` seconds."""
        began = self._began
        return (
            not self._lost
            and all(thread.is_alive() for thread in self._threads)
            and (began is None or time.monotonic() - began < longest_batch_s)
        )

    def stop(self, timeout_s: float | None = None) -> None:
        """Score every job submitted so far, then end the threads. Returns after `timeout_s` seconds at the latest."""
        until = None if timeout_s is None else time.monotonic() + timeout_s
        self._queue.put(END)
        for thread in self._threads:
            thread.join(None if until is None else max(0.0, until - time.monotonic()))

    def _run(self) -> None:
        while (first := self._next()) is not END:
            batch = self._fill(first)
            del first  # or its image would stay on the device until the next one comes
            self._queue.begin_batch()
            self._score(batch)
            del batch
        self._idle.set()
        self._scored.put(None)

    def _next(self, patience_s: float | None = None) -> Waiting:
        """Raises queue.Empty after `patience_s` seconds."""
        try:
            return self._queue.get_nowait()
        except queue.Empty:
            self._idle.set()
            return self._queue.get(timeout=patience_s)

    def _fill(self, first: Waiting) -> list[Waiting]:
        """Gather a batch that begins with `first`. Jobs whose callers gave up are left out, so it may be empty."""
        batch = [first] if first.future.set_running_or_notify_cancel() else []
        until = first.since + self._max_wait_s
        latest = max(until, time.monotonic()) + GRACE_S
        while len(batch) < self._max_batch:
            now = time.monotonic()
            patience_s = max(0.0, until - now) or (_LOOK_S if self.expected and now < latest else 0.0)
            try:
                waiting = self._next(patience_s)
            except queue.Empty:
                if patience_s:
                    continue
                break
            if waiting is END:
                self._queue.put(END)
                break
            if waiting.future.set_running_or_notify_cancel():
                batch.append(waiting)
        return batch

    def _score(self, batch: list[Waiting]) -> None:
        if not batch:
            return
        self._idle.clear()
        self._began = began = time.monotonic()
        try:
            results = self.scoring.score([waiting.job for waiting in batch])
            if len(results) != len(batch):
                raise InternalError(f"the scorer gave {len(results)} results for {len(batch)} images")
        except Exception as error:
            logger.exception("a batch of %d failed", len(batch))
            self._lost = self._lost or isinstance(error, DeviceLost)
            results = [Failure.from_error(error)] * len(batch)
        finally:
            self._began = None
        ended = time.monotonic()
        if self.metrics is not None:
            self.metrics.batch(len(batch), self._max_batch)
        pause_s = min(PAUSE_S, SPREAD * (ended - began) / len(batch))
        for position, (waiting, result) in enumerate(zip(batch, results, strict=True)):
            if isinstance(result, Scores):
                before_ms = {"prepare": waiting.prepared_s * 1000, "wait": (began - waiting.since) * 1000}
                result = replace(result, timings_ms={**before_ms, **result.timings_ms}, batch=len(batch))
            self._scored.put(_Scored(ended + position * pause_s, waiting.future, result))

    def _hand_out(self) -> None:
        while scored := self._scored.get():
            self._idle.wait(max(0.0, scored.due - time.monotonic()))
            scored.future.set_result(scored.result)
