"""Threads that repeat a step until their worker stops: they take in requests, sweep, and renew leases."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

from m3agiqa import __version__
from m3agiqa.errors import QueueUnavailable
from m3agiqa.queue import keys, overview
from m3agiqa.queue.ledger import PATIENCE_S, SWEPT_AT_ONCE, Ledger, whoami

logger = logging.getLogger(__name__)

#: Seconds to wait for loops to end: a loop that waits for an absent Redis ends with the process.
_STOP_S = 5.0
#: Seconds between two sweeps.
_SWEEP_S = 0.5
#: Seconds to wait at an empty inbox, or between two looks at it.
_WAIT_S = 1
#: Seconds that no sound step takes: three times those for which one command is tried again.
STUCK_S = 3 * PATIENCE_S


class Loop:
    """Repeats `step` in a thread: `pause_s` seconds after it returned, or at once where it returned true, as there is
    more to do.

    A step that Redis refuses is logged and repeated after a second. A step that takes `stuck_s` seconds counts as
    stuck.
    """

    def __init__(
        self, name: str, step: Callable[[], bool | None], pause_s: float = 0.0, stuck_s: float = STUCK_S
    ) -> None:
        self._name, self._step, self._pause_s = name, step, pause_s
        self._stuck_after_s = max(1.0, pause_s) + stuck_s
        self._came_round = time.monotonic()
        self._stopping = threading.Event()
        self._refused = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread runs and its step is not stuck."""
        return self._thread.is_alive() and time.monotonic() - self._came_round < self._stuck_after_s

    @property
    def refused(self) -> bool:
        """Whether Redis refused the latest step."""
        return self._refused

    @staticmethod
    def stop(loops: Sequence[Loop]) -> None:
        """Stop several loops within a few seconds in all, even while Redis is away."""
        for loop in loops:
            loop._stopping.set()
        until = time.monotonic() + _STOP_S
        for loop in loops:
            loop._thread.join(timeout=max(0.0, until - time.monotonic()))

    def _run(self) -> None:
        pause_s = self._pause_s
        while not self._stopping.wait(pause_s):
            self._came_round = time.monotonic()
            try:
                more = self._step()
                pause_s, self._refused = 0.0 if more else self._pause_s, False
            except QueueUnavailable as error:
                logger.error("%s waits: %s", self._name, error)
                pause_s, self._refused = max(1.0, self._pause_s), True


def ledger_loops(ledger: Ledger, alive: Callable[[], bool], *, at_once: bool) -> list[Loop]:
    """The loops of a worker: it takes in requests, sweeps, and renews its own leases while `alive` returns true.

    With `at_once`, it takes in requests as they come; without, it looks once a second for those that no other took in.
    """

    def sweep() -> bool:
        return ledger.sweep() == SWEPT_AT_ONCE

    def renew() -> None:
        if alive():
            ledger.renew()

    def take_in_one(priority: int) -> None:
        if ledger.wait(priority, _WAIT_S):
            ledger.admit(priority)

    def take_in_all() -> bool:
        return any(ledger.admit(priority) for priority in keys.PRIORITIES)

    inbox = (
        [Loop(f"inbox {priority}", partial(take_in_one, priority)) for priority in keys.PRIORITIES]
        if at_once
        else [Loop("inbox", take_in_all, _WAIT_S)]
    )
    return [*inbox, Loop("sweeper", sweep, _SWEEP_S), Loop("renewer", renew, ledger.lease_s / 4)]


def presence_loop(ledger: Ledger, alive: Callable[[], bool], queues: Sequence[str], model: str) -> Loop:
    """The loop that says in Redis every few seconds that a worker of `queues` is there, while `alive` returns true."""
    worker = overview.WorkerSeen(
        name=whoami(), queues=tuple(queues), model=model, held=0, started_at=time.time(), version=__version__
    )

    def say() -> None:
        if alive():
            overview.register(ledger.connection, worker.model_copy(update={"held": len(ledger.held())}))

    return Loop("presence", say, overview.REGISTER_S)
