"""Threads of a worker that do something over and over until it stops."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

from m3agiqa.errors import QueueUnavailable
from m3agiqa.queue import keys
from m3agiqa.queue.ledger import PATIENCE_S, SWEPT_AT_ONCE, Ledger

logger = logging.getLogger(__name__)

#: Seconds that the end of loops is waited for: one that waits for a Redis that is away ends with its process.
_STOP_S = 5.0
#: Seconds between two sweeps.
_SWEEP_S = 0.5
#: Seconds that an empty inbox is waited at, or left alone.
_WAIT_S = 1
#: Seconds that no step takes: those for which a command is tried again, and as long again for those behind it.
STUCK_S = 3 * PATIENCE_S


class Loop:
    """Calls `step` again and again from a thread, `pause_s` seconds after it returned, or at once where it says that
    there is more to do.

    What Redis refuses is logged, and tried again after a second. A step that takes `stuck_s` seconds will never end.
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
        """Whether it still comes round."""
        return self._thread.is_alive() and time.monotonic() - self._came_round < self._stuck_after_s

    @property
    def refused(self) -> bool:
        """Whether Redis let the latest step not end."""
        return self._refused

    @staticmethod
    def stop(loops: Sequence[Loop]) -> None:
        """Stop them within a few seconds all together, even while Redis is away."""
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
    """What every worker does for all: take in, sweep, and renew what it has itself, as long as `alive` says that its
    work moves.

    `at_once` says that it takes in whatever comes as it comes; otherwise, what nobody else took in within a second.
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
