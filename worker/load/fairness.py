"""`python -m worker.load.fairness`: how long a few requests of one tenant take behind a backlog of another.

A Valkey and both workers on loopback, with the fake scorer, which takes a fixed time for a batch. One tenant submits
all its requests at once; while they are scored, another submits a few, again and again, at any time within a batch.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import median, quantiles

from PIL import Image

from m3agiqa import console
from producers import ScoreRequest
from worker.demo.processes import DemoFailed
from worker.load.rig import STUCK_AFTER_S, Arrived, Rig, rig

#: Seconds between two looks at what arrived.
_LOOK_S = 0.02
#: Stages of a request before its batch begins.
_BEFORE = ("queue", "fetch", "open", "wait")
#: Multiples of the golden ratio spread evenly.
_GOLDEN = 0.618034
#: Batches until the backlog counts as being scored.
_WARM_BATCHES = 6


@dataclass(frozen=True)
class Load:
    #: Requests of the tenant that came first.
    backlog: int
    #: Requests of the other one in a round, and rounds at most.
    few: int
    rounds: int
    max_batch: int
    batch_time_s: float


@dataclass(frozen=True)
class Fairness:
    #: Rounds that came before the backlog was scored.
    rounds: int
    #: Mean seconds from one batch to the next, as measured, and images in a batch.
    batch_s: float
    batch: float
    #: Time from the submission of one of the few until its batch is over, in such batches.
    p50_batches: float
    p99_batches: float
    most_batches: float
    #: Seconds until its callback: workers hand the results of a batch out while the next one is scored.
    callback_p99_s: float
    #: Callbacks a second from the first submission to the end of the last round, of both tenants.
    per_s: float


def run(load: Load) -> Fairness:
    """Measure.

    Raises:
        DemoFailed: a worker did not come up, or a callback did not come.
    """
    image = io.BytesIO()
    Image.new("RGB", (64, 64), "grey").save(image, "PNG")
    with rig(
        [image.getvalue()],
        score_threads=3 * load.max_batch,
        model=f"fake:{load.batch_time_s}",
        max_batch=load.max_batch,
    ) as platform:
        arrivals = _Arrivals(platform)
        began = time.monotonic()
        platform.client.submit_many(_requests(platform, "first", load.backlog))
        arrivals.until(min(load.backlog, _WARM_BATCHES * load.max_batch))
        found: list[Arrived] = []
        rounds = 0
        while rounds < load.rounds and arrivals.count("first") < load.backlog:
            few = list(_requests(platform, f"few-{rounds}", load.few))
            platform.client.submit_many(few)
            rounds += 1
            found += arrivals.of([request.request_id for request in few])
            time.sleep((1 + rounds * _GOLDEN % 1) * load.batch_time_s)
        arrivals.count("")
        took_s = time.monotonic() - began
    total = len(arrivals.found)
    # Each of the n verdicts of a batch counts for 1 / n of it.
    number = sum(1 / arrived.batch for arrived in arrivals.found.values() if arrived.batch)
    batch_s = took_s / number
    batches = [sum(each.timings_ms[stage] for stage in _BEFORE) / 1000 / batch_s + 1 for each in found]
    return Fairness(
        rounds,
        batch_s,
        total / number,
        median(batches),
        _p99(batches),
        max(batches),
        _p99([each.latency_s for each in found]),
        total / took_s,
    )


def _p99(values: Sequence[float]) -> float:
    return quantiles(values, n=100, method="inclusive")[98]


class _Arrivals:
    """What arrived so far, by request id."""

    def __init__(self, platform: Rig) -> None:
        self._receiver = platform.receiver
        self._latest = time.monotonic()
        self.found: dict[str, Arrived] = {}

    def count(self, begin: str) -> int:
        self._look()
        return sum(name.startswith(begin) for name in self.found)

    def until(self, number: int) -> None:
        """Wait until so many arrived. Raises DemoFailed if none comes for long."""
        while len(self.found) < number:
            if not self._look() and time.monotonic() - self._latest > STUCK_AFTER_S:
                raise DemoFailed(f"{len(self.found)} of {number} callbacks came, then none for {STUCK_AFTER_S:g} s")
            time.sleep(_LOOK_S)

    def of(self, names: Sequence[str]) -> list[Arrived]:
        """These, once all are there."""
        while not self.found.keys() >= set(names):
            self.until(len(self.found) + 1)
        return [self.found[name] for name in names]

    def _look(self) -> bool:
        taken = self._receiver.take()
        self.found.update({arrived.request_id: arrived for arrived in taken})
        if taken:
            self._latest = time.monotonic()
        return bool(taken)


def _requests(platform: Rig, tenant: str, number: int) -> Iterator[ScoreRequest]:
    endpoint = platform.receiver.endpoint
    for at in range(number):
        yield ScoreRequest(
            tenant=tenant.partition("-")[0],
            request_id=f"{tenant}-{at}",
            image_url=f"http://{endpoint}/{at}.png",
            prompt=f"{tenant} {at}, as nobody has asked for it before",
            callback_url=f"http://{endpoint}/verdicts",
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and print the figures as JSON; 0 if every callback came."""
    parser = argparse.ArgumentParser(prog="python -m worker.load.fairness", description=main.__doc__)
    parser.add_argument(
        "--backlog", type=console.whole(), default=10_000, metavar="N", help="of the one tenant (10000)"
    )
    parser.add_argument("--few", type=console.whole(2), default=10, metavar="N", help="of the other, at a time (10)")
    parser.add_argument("--rounds", type=console.whole(), default=20, metavar="N", help="how often at most (20)")
    parser.add_argument("--max-batch", type=console.whole(), default=32, metavar="N", help="images of a batch (32)")
    parser.add_argument(
        "--batch-time", type=console.number(is_open=True), default=0.5, metavar="S", help="seconds of a batch (0.5)"
    )
    given = parser.parse_args(argv)
    load = Load(given.backlog, given.few, given.rounds, given.max_batch, given.batch_time)
    try:
        print(json.dumps({**asdict(load), **asdict(run(load))}))
    except DemoFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
