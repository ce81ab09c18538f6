"""Ends a worker that can do no more good, so that whatever supervises it starts another.

Threads cannot be killed: one that hangs in the GPU's driver keeps its worker from ever stopping by itself. So the
process ends at once, after its tasks were given back. One that has grown too large is merely asked to stop, and
finishes what it began. One that stops waits for its tasks, but not for a Redis that says nothing any more: what it
could not give back comes to others as its leases end.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

from m3agiqa.errors import QueueUnavailable
from m3agiqa.queue.claim import Claim
from m3agiqa.queue.ledger import Ledger

logger = logging.getLogger(__name__)

#: Exit codes of a worker that was ended for hanging (EX_SOFTWARE), that stopped while Redis was away (EX_TEMPFAIL), and
#: that was interrupted twice.
HUNG, CUT_OFF, INTERRUPTED = 70, 75, 130
#: Seconds to give the tasks back in, also where somebody waits at a terminal. If Redis is away as well, their leases
#: end by themselves.
_GIVE_BACK_S, _GIVE_BACK_SOON_S = 10.0, 2.0

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def resident_bytes() -> int:
    """Memory that this process occupies now; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * _PAGE_BYTES
    except FileNotFoundError:
        return 0


class Watchdog:
    """A thread that looks every `interval_s` seconds whether `alive` says so still, and how much memory there is.

    `growth_limit_bytes` counts from now on; 0 is no limit. A Redis that did not answer for `silence_s` seconds is not
    waited for by a worker that stops.
    """

    def __init__(
        self,
        ledger: Ledger,
        alive: Callable[[], bool],
        *,
        growth_limit_bytes: int,
        answers: Callable[[], bool] = lambda: True,
        silence_s: float = math.inf,
        interval_s: float = 1.0,
    ) -> None:
        self._ledger = ledger
        self._answers, self._silence_s = answers, silence_s
        self._drains = False
        self._alive = alive
        self._most_bytes = resident_bytes() + growth_limit_bytes if growth_limit_bytes else 0
        self._interval_s = interval_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        self._thread.start()

    def drain(self) -> None:
        """The worker stops from now on."""
        self._drains = True

    def interrupt(self) -> None:
        """End at once, and leave nothing to Celery, which would wait for its threads."""
        self._end(INTERRUPTED, "interrupted again", _GIVE_BACK_SOON_S)

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        asked, heard = False, time.monotonic()
        while not self._stopping.wait(self._interval_s):
            if not self._alive():
                self._end(HUNG, "a thread of this worker hangs or died", _GIVE_BACK_S)
            if not self._drains or self._answers():
                heard = time.monotonic()
            elif time.monotonic() - heard > self._silence_s:
                self._end(CUT_OFF, "Redis does not answer, and this worker is to stop", _GIVE_BACK_SOON_S)
            if not asked and self._most_bytes and (resident := resident_bytes()) > self._most_bytes:
                logger.error("this worker has grown to %d MiB and stops, to be started anew", resident // 2**20)
                os.kill(os.getpid(), signal.SIGTERM)
                asked = True

    def _end(self, code: int, why: str, within_s: float) -> None:
        claims = self._ledger.held()
        logger.critical("%s: giving back %d tasks, and ending", why, len(claims))
        giving = threading.Thread(target=_give_back, args=(claims, why, code == HUNG), daemon=True)
        giving.start()
        giving.join(within_s)
        os._exit(code)


def _give_back(claims: list[Claim], why: str, at_fault: bool) -> None:
    try:
        for claim in claims:
            if at_fault:
                claim.abandon(why)
            else:
                claim.release(why=why)
    except QueueUnavailable as error:
        logger.error("not all tasks could be given back: %s", error)
