"""`python -m worker.load.metrics_cost`: throughput with M3AGIQA_METRICS_PORT beside throughput without it.

Two platforms with the fake scorer live side by side and take bursts in turn, so that whatever else happens on this
machine meets both. Workers with metrics are asked for them every 5 s, as Prometheus would.
"""

from __future__ import annotations

import argparse
import sys
import threading
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from math import sqrt
from statistics import fmean, stdev

from rich.console import Console
from rich.table import Table

from worker.demo.processes import DemoFailed
from worker.load.measure import measure, queue_alone

#: Seconds between two looks at the metrics, and for each.
_SCRAPE_EVERY_S = 5.0
_SCRAPE_TIMEOUT_S = 10.0
#: Requests of the first burst, which does not count.
_WARM_UP = 400


def run(pairs: int, tasks: int) -> Iterator[tuple[float, float]]:
    """Tasks a second without and with metrics, of `pairs` bursts each; the one that comes first changes each time.

    Raises:
        DemoFailed: a worker did not come up, or a callback did not come.
    """
    with ExitStack() as stack:
        platforms = [stack.enter_context(queue_alone(metrics=metrics)) for metrics in (False, True)]
        stack.enter_context(_asked(platforms[True].metrics_urls))
        for platform in platforms:
            measure(platform, _WARM_UP, None)
        for number in range(pairs):
            rates = [0.0, 0.0]
            for metrics in (False, True) if number % 2 == 0 else (True, False):
                # A prompt holds the number of tasks, so no burst asks what an earlier one asked.
                rates[metrics] = measure(platforms[metrics], tasks + number, None).tasks_per_s
            yield rates[0], rates[1]


@contextmanager
def _asked(urls: Sequence[str]) -> Iterator[None]:
    stop = threading.Event()

    def ask() -> None:
        while not stop.wait(_SCRAPE_EVERY_S):
            for url in urls:
                with urllib.request.urlopen(url, timeout=_SCRAPE_TIMEOUT_S) as answer:  # noqa: S310 (our own worker)
                    answer.read()

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and print each pair of bursts and their mean ratio with its 95 % interval (normal)."""
    parser = argparse.ArgumentParser(prog="python -m worker.load.metrics_cost", description=main.__doc__)
    parser.add_argument("--pairs", type=int, default=20, metavar="N", help="bursts without and with metrics (20)")
    parser.add_argument("--tasks", type=int, default=1000, metavar="N", help="requests of a burst (1000)")
    arguments = parser.parse_args(argv)
    if arguments.pairs < 2 or arguments.tasks < 1:
        parser.error("at least 2 pairs of at least 1 request are needed")
    table = Table("without, tasks/s", "with", "ratio")
    ratios = []
    try:
        for without, with_metrics in run(arguments.pairs, arguments.tasks):
            ratios.append(with_metrics / without)
            table.add_row(f"{without:.1f}", f"{with_metrics:.1f}", f"{ratios[-1]:.3f}")
    except DemoFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    margin = 1.96 * stdev(ratios) / sqrt(len(ratios))
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    console.print(f"mean ratio {fmean(ratios):.3f} +- {margin:.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
