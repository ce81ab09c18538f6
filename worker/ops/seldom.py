"""Limits how often the same thing is logged."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from threading import Lock


class Seldom:
    """Says whether it is time to log something: each thing once in `every_s` seconds. Safe to share among threads."""

    def __init__(self, every_s: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._every_s = every_s
        self._clock = clock
        self._logged: dict[Hashable, float] = {}
        self._lock = Lock()

    def now(self, what: Hashable) -> bool:
        with self._lock:
            now = self._clock()
            # Entries older than the pause decide nothing any more, and would add up.
            self._logged = {other: when for other, when in self._logged.items() if now - when < self._every_s}
            if what in self._logged:
                return False
            self._logged[what] = now
            return True
