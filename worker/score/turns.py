"""The jobs that wait for a batch, in an order that is fair between tenants."""

from __future__ import annotations

import heapq
import math
import queue
from collections import Counter
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from m3agiqa.contract import Failure
    from m3agiqa.jobs import Job, Scores

#: Seconds that a tenant's next image waits longer for each of its images that the batch has already. So a tenant whose
#: images have waited for some batches leaves places to one that has just come.
TURN_S = 2.0


@dataclass(order=True)
class Waiting:
    """A job that waits for a batch. Jobs are ordered by `due`, seconds of the monotonic clock, and then by number."""

    due: float
    number: int
    job: Job = field(compare=False)
    future: Future[Scores | Failure] = field(compare=False)
    #: When the job was ready for a batch, seconds of the same clock.
    since: float = field(compare=False)
    #: Seconds that preparing the job took.
    prepared_s: float = field(compare=False, default=0.0)
    #: Whose it is; None is one more tenant.
    tenant: str | None = field(compare=False, default=None)


#: Ends the queue: it is ordered behind every job.
END = Waiting(math.inf, 0, cast("Job", None), Future(), math.inf)


class Turns(queue.Queue[Waiting]):
    """Gives the job that is due first, with TURN_S between two of a tenant in one batch."""

    def _init(self, maxsize: int) -> None:
        self._heaps: dict[str | None, list[Waiting]] = {}
        self._taken: Counter[str | None] = Counter()

    def begin_batch(self) -> None:
        """Forget who had a turn."""
        with self.mutex:
            self._taken.clear()

    def _qsize(self) -> int:
        return sum(map(len, self._heaps.values()))

    def _put(self, item: Waiting) -> None:
        heapq.heappush(self._heaps.setdefault(item.tenant, []), item)

    def _get(self) -> Waiting:
        def turn(tenant: str | None) -> tuple[float, int]:
            first = self._heaps[tenant][0]
            return first.due + TURN_S * self._taken[tenant], first.number

        tenant = min(self._heaps, key=turn)
        waiting = heapq.heappop(self._heaps[tenant])
        if not self._heaps[tenant]:
            del self._heaps[tenant]
        self._taken[tenant] += 1
        return waiting
