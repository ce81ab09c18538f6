"""Limits of tenants: how often they ask, and how much they have open. They are those of one process."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from m3agiqa.gateway.problems import Problem

#: Seconds after which somebody who found no place is told to come back.
_PLACE_AGAIN_S = 1.0


@dataclass(frozen=True)
class _Level:
    tokens: float
    at: float


class Rates:
    """A token bucket for each tenant: `per_s` requests a second, and `burst` at once."""

    def __init__(self, per_s: float, burst: int, now: Callable[[], float] = time.monotonic) -> None:
        self._per_s = per_s
        self._burst = burst
        self._now = now
        self._levels: dict[str, _Level] = {}

    def take(self, tenant: str) -> None:
        """Count a request of a tenant. Raises a Problem of status 429 if it has asked too often."""
        now = self._now()
        before = self._levels.get(tenant, _Level(self._burst, now))
        tokens = min(self._burst, before.tokens + (now - before.at) * self._per_s)
        if tokens < 1:
            raise Problem(429, "rate_limited", "too many requests", retry_after_s=(1 - tokens) / self._per_s)
        self._levels[tenant] = _Level(tokens - 1, now)


class Places:
    """Places for what takes long: `total` in all, and `each` for a tenant."""

    def __init__(self, what: str, total: int, each: int) -> None:
        self._what = what
        self._total = total
        self._each = each
        self._taken: Counter[str] = Counter()

    @contextmanager
    def one(self, tenant: str) -> Iterator[None]:
        """Have a place while the block runs. Raises a Problem of status 429 if the tenant has all of its own, and 503
        if there is none.
        """
        if self._taken[tenant] >= self._each:
            raise Problem(429, "rate_limited", f"too many {self._what} at a time", retry_after_s=_PLACE_AGAIN_S)
        if self._taken.total() >= self._total:
            raise Problem(503, "overloaded", f"too many {self._what} at a time, of all", retry_after_s=_PLACE_AGAIN_S)
        self._taken[tenant] += 1
        try:
            yield
        finally:
            self._taken[tenant] -= 1
