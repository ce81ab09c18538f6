"""Gathers pictures from many threads into batches for the one thread that may use the model."""

from __future__ import annotations

import logging
import queue
import threading
import time
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import TYPE_CHECKING

from m3agiqa.contract import Failure
from m3agiqa.errors import InternalError, ScoringTimeout
from m3agiqa.jobs import Job, Scores

if TYPE_CHECKING:
    from m3agiqa.scorer import Scoring

logger = logging.getLogger(__name__)

_Waiting = tuple[Job, "Future[Scores | Failure]"]


class Batcher:
    """A batch goes when `max_batch` pictures wait for it, or its first has waited `max_wait_s` seconds."""

    def __init__(self, scoring: Scoring, *, max_batch: int, max_wait_s: float) -> None:
        self.scoring = scoring
        self._max_batch = max_batch
        self._max_wait_s = max_wait_s
        #: None is the last.
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._began: float | None = None
        self._thread = threading.Thread(target=self._run, name="batcher", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> Future[Scores | Failure]:
        """The future's result is what the scorer gave for `job`; a scorer that raised becomes a Failure there.

        What needs no model is done here, in the caller's thread, while the model works on others.
        """
        future: Future[Scores | Failure] = Future()
        self._queue.put((self.scoring.prepare(job), future))
        return future

    def score(self, job: Job, timeout_s: float) -> Scores | Failure:
        """Wait for `job` to be scored.

        Raises:
            ScoringTimeout: not within `timeout_s` seconds.
        """
        future = self.submit(job)
        try:
            return future.result(timeout_s)
        except FutureTimeout:
            future.cancel()
            raise ScoringTimeout(f"no score within {timeout_s:g} s") from None

    def alive(self, longest_batch_s: float) -> bool:
        """Whether its thread runs, and no batch has taken over `longest_batch_s` seconds."""
        began = self._began
        return self._thread.is_alive() and (began is None or time.monotonic() - began < longest_batch_s)

    def stop(self, timeout_s: float | None = None) -> None:
        """Score what was submitted, then end the thread; wait for that `timeout_s` seconds at most."""
        self._queue.put(None)
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while (first := self._queue.get()) is not None:
            self._score(self._fill(first))

    def _fill(self, first: _Waiting) -> list[_Waiting]:
        batch = [first]
        until = time.monotonic() + self._max_wait_s
        while len(batch) < self._max_batch:
            try:
                waiting = self._queue.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                break
            if waiting is None:
                self._queue.put(None)
                break
            batch.append(waiting)
        return batch

    def _score(self, batch: list[_Waiting]) -> None:
        # Nobody waits any more for what is cancelled.
        batch = [(job, future) for job, future in batch if future.set_running_or_notify_cancel()]
        if not batch:
            return
        self._began = time.monotonic()
        try:
            results = self.scoring.score([job for job, _ in batch])
            if len(results) != len(batch):
                raise InternalError(f"the scorer gave {len(results)} results for {len(batch)} pictures")
        except Exception as error:
            logger.exception("a batch of %d failed", len(batch))
            results = [Failure.of(error)] * len(batch)
        finally:
            self._began = None
        for (_, future), result in zip(batch, results, strict=True):
            future.set_result(result)
