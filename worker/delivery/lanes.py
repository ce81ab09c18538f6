"""Sends many things to many receivers from one process, so that a receiver that fails costs its neighbours nothing.

Each receiver has a lane. Lanes take turns at the threads. After a few failures in a row a lane pauses, and in the end
is given up, with all that is left in it.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import count
from typing import Generic, TypeVar

from m3agiqa.errors import Busy, M3AGIQAError

ItemT = TypeVar("ItemT")


@dataclass(eq=False)
class _Lane(Generic[ItemT]):
    """What one receiver is to have."""

    #: A heap: when an item is due, a number that keeps the order, attempts so far, the item.
    waiting: list[tuple[float, int, int, ItemT]] = field(default_factory=list)
    running: int = 0
    is_queued: bool = False
    #: When a pause ends.
    due: float = 0.0
    failed_in_a_row: int = 0
    pauses: int = 0


class Lanes(Generic[ItemT]):
    """Calls `send` with items in `threads` threads, at most `per_receiver` at a time for one receiver.

    A failure that is retryable is tried again after each of `retry_delays_s`. When `per_receiver` attempts in a row
    failed, the receiver is left alone for as long; after the last of these pauses, it is given up.
    """

    def __init__(
        self, send: Callable[[ItemT], None], *, threads: int, per_receiver: int, retry_delays_s: Sequence[float]
    ) -> None:
        self._send = send
        self._threads = threads
        self._per_receiver = per_receiver
        self._retry_delays_s = retry_delays_s
        self._order = count()
        #: A heap of lanes that may send: when, a number that keeps the order, the lane.
        self._queue: list[tuple[float, int, _Lane[ItemT]]] = []
        self._running: dict[Future[None], tuple[_Lane[ItemT], ItemT, int]] = {}
        self._ended: Callable[[ItemT, Exception | None], None] = lambda item, error: None

    def run(self, items: Iterable[tuple[str, ItemT]], ended: Callable[[ItemT, Exception | None], None]) -> None:
        """Send items, each with its receiver before it. `ended` is told of each, with the error that ended it or None.

        Whatever ends the run, `ended` has been told of all that was sent.
        """
        self._ended = ended
        lanes: dict[str, _Lane[ItemT]] = {}
        for receiver, item in items:
            lanes.setdefault(receiver, _Lane()).waiting.append((0.0, next(self._order), 0, item))
        for lane in lanes.values():
            self._enqueue(lane, 0.0)
        pool = ThreadPoolExecutor(self._threads)
        try:
            while self._queue or self._running:
                self._start(pool, time.monotonic())
                self._settle(self._wait())
        finally:
            pool.shutdown(cancel_futures=True)
            self._settle({future for future in self._running if not future.cancelled()})

    def _enqueue(self, lane: _Lane[ItemT], now: float) -> None:
        if not lane.is_queued and lane.waiting and lane.running < self._per_receiver:
            heapq.heappush(self._queue, (max(now, lane.due, lane.waiting[0][0]), next(self._order), lane))
            lane.is_queued = True

    def _start(self, pool: ThreadPoolExecutor, now: float) -> None:
        while self._queue and self._queue[0][0] <= now and len(self._running) < self._threads:
            lane = heapq.heappop(self._queue)[2]
            lane.is_queued = False
            if lane.waiting and max(lane.due, lane.waiting[0][0]) <= now:
                _, _, attempts, item = heapq.heappop(lane.waiting)
                self._running[pool.submit(self._send, item)] = lane, item, attempts
                lane.running += 1
            self._enqueue(lane, now)

    def _wait(self) -> set[Future[None]]:
        """Wait until something ended, or a lane is due while a thread is free."""
        is_free = self._queue and len(self._running) < self._threads
        timeout_s = max(0.0, self._queue[0][0] - time.monotonic()) if is_free else None
        if not self._running:
            time.sleep(timeout_s or 0.0)
        return wait(self._running, timeout_s, FIRST_COMPLETED).done

    def _settle(self, done: set[Future[None]]) -> None:
        for future in done:
            lane, item, attempts = self._running.pop(future)
            lane.running -= 1
            error, now = future.exception(), time.monotonic()
            if error is None:
                lane.failed_in_a_row = lane.pauses = 0
                self._ended(item, None)
            elif isinstance(error, Busy):
                lane.due = max(lane.due, now + error.delay_s)
                heapq.heappush(lane.waiting, (now, next(self._order), attempts, item))
            elif isinstance(error, M3AGIQAError) and error.retryable:
                self._failed(lane, item, attempts, error, now)
            elif isinstance(error, Exception):
                self._ended(item, error)
            else:
                raise error
            self._enqueue(lane, now)

    def _failed(self, lane: _Lane[ItemT], item: ItemT, attempts: int, error: M3AGIQAError, now: float) -> None:
        if attempts < len(self._retry_delays_s):
            due = now + self._retry_delays_s[attempts]
            heapq.heappush(lane.waiting, (due, next(self._order), attempts + 1, item))
        else:
            self._ended(item, error)
        lane.failed_in_a_row += 1
        if lane.failed_in_a_row < self._per_receiver:
            return
        lane.failed_in_a_row = 0
        if lane.pauses < len(self._retry_delays_s):
            lane.due = now + self._retry_delays_s[lane.pauses]
            lane.pauses += 1
            return
        for *_, left in lane.waiting:
            self._ended(left, error)
        lane.waiting.clear()
