"""Limits the memory that all images take together: as fetched, while they are decoded, and until they are scored."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from m3agiqa.errors import Busy

#: Seconds until a task that found no room is taken again: at random between these two.
_AGAIN_S = (0.5, 2.0)


class Budget:
    """Bytes for all images together. Safe to share among threads.

    An image that needs more than the whole budget gets it once no other image holds any.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._taken = 0
        self._changed = threading.Condition()

    @property
    def taken_bytes(self) -> int:
        return self._taken

    @contextmanager
    def hold(self) -> Iterator[Hold]:
        """Room for one image, given back at the end of the block."""
        hold = Hold(self)
        try:
            yield hold
        finally:
            hold.resize(0)

    def _exchange(self, before: int, after: int, wait_s: float) -> None:
        until = time.monotonic() + wait_s
        with self._changed:
            while after > before and self._taken > before and self._taken - before + after > self._limit:
                if not self._changed.wait(until - time.monotonic()) and time.monotonic() >= until:
                    raise Busy("no room for another image", random.uniform(*_AGAIN_S))
            self._taken += after - before
            if after < before:
                self._changed.notify_all()


class Hold:
    """The part of a budget that one image takes."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._bytes = 0

    def resize(self, size_bytes: int, wait_s: float = 0.0) -> None:
        """Hold `size_bytes` from now on, instead of what is held; to hold less always succeeds.

        Raises:
            Busy: the budget has no room for more within `wait_s` seconds.
        """
        self._budget._exchange(self._bytes, size_bytes, wait_s)
        self._bytes = size_bytes
