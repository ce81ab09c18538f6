"""Ends a worker that can do no more good, so that whatever supervises it starts another.

Threads cannot be killed: one that hangs in the GPU's driver keeps its worker from ever stopping by itself. So the
process ends at once, after its tasks were given back. One that has grown too large is merely asked to stop, and
finishes what it began.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

from m3agiqa.errors import QueueUnavailable
from m3agiqa.queue.ledger import Claim, Ledger

logger = logging.getLogger(__name__)

#: Exit code of a worker that was ended for hanging: EX_SOFTWARE.
HUNG = 70
#: Seconds to give the tasks back in. If Redis is away as well, their leases end by themselves.
_GIVE_BACK_S = 10.0

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def resident_bytes() -> int:
    """Memory that this process occupies now; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * _PAGE_BYTES
    except FileNotFoundError:
        return 0


class Watchdog:
    """A thread that looks every `interval_s` seconds whether `alive` says so still, and how much memory there is.

    `growth_limit_bytes` counts from now on; 0 is no limit.
    """

    def __init__(
        self,
        ledger: Ledger,
        alive: Callable[[], bool],
        *,
        growth_limit_bytes: int,
        interval_s: float = 1.0,
    ) -> None:
        self._ledger = ledger
        self._alive = alive
        self._most_bytes = resident_bytes() + growth_limit_bytes if growth_limit_bytes else 0
        self._interval_s = interval_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        asked = False
        while not self._stopping.wait(self._interval_s):
            if not self._alive():
                self._end()
            if not asked and self._most_bytes and (resident := resident_bytes()) > self._most_bytes:
                logger.error("this worker has grown to %d MiB and stops, to be started anew", resident // 2**20)
                os.kill(os.getpid(), signal.SIGTERM)
                asked = True

    def _end(self) -> None:
        claims = self._ledger.held()
        logger.critical("a thread of this worker hangs or died: giving back %d tasks, and ending", len(claims))
        giving = threading.Thread(target=_give_back, args=(claims,), daemon=True)
        giving.start()
        giving.join(_GIVE_BACK_S)
        os._exit(HUNG)


def _give_back(claims: list[Claim]) -> None:
    try:
        for claim in claims:
            claim.abandon("its worker hung")
    except QueueUnavailable as error:
        logger.error("not all tasks could be given back: %s", error)
