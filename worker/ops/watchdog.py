"""Ends a worker that can do no more work, so that its supervisor starts another.

Nothing can kill a thread: one that hangs in the GPU's driver keeps its worker from stopping by itself. So the watchdog
gives the worker's tasks back and ends the process at once. A worker that has grown too large is asked to stop, and
finishes its tasks first. A worker that stops waits for its tasks, but not for a Redis that does not answer: tasks that
it could not give back go to other workers when their leases end.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import threading
import time
from collections.abc import Callable

from m3agiqa.errors import QueueUnavailable
from m3agiqa.memory import resident_bytes
from m3agiqa.queue.claim import Claim
from m3agiqa.queue.ledger import Ledger

logger = logging.getLogger(__name__)

#: Exit codes of a worker that hung (EX_SOFTWARE), that stopped while Redis was away (EX_TEMPFAIL), and that was
#: interrupted twice.
HUNG, CUT_OFF, INTERRUPTED = 70, 75, 130
#: Seconds to give tasks back in, and where somebody waits at a terminal. If Redis is away, their leases end by
#: themselves.
_GIVE_BACK_S, _GIVE_BACK_SOON_S = 10.0, 2.0


class Watchdog:
    """A thread that checks every `interval_s` seconds whether `alive` returns true and how much memory the process has.

    The process may grow by `growth_limit_bytes` from now on; 0 is no limit. A worker that stops does not wait longer
    than `silence_s` seconds for a Redis that does not answer.
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
        """Say that the worker is stopping."""
        self._drains = True

    def interrupt(self) -> None:
        """End the process at once, where Celery would wait for its threads."""
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
