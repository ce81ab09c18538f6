"""`python -m worker.load`: measures how fast the queue is without a model, and what a waiting request costs Redis.

It starts a Valkey and both workers on loopback with the fake scorer, submits bursts of requests for one small image,
each with another prompt, and waits for their signed callbacks. With `--model`, a real model scores distinct images, and
then scores them again without a queue. All of it runs on this machine, so the rates are lower bounds.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from statistics import quantiles
from typing import TYPE_CHECKING

from PIL import Image
from redis import Redis
from rich.console import Console
from rich.table import Table

from m3agiqa import console
from m3agiqa.errors import M3AGIQAError
from m3agiqa.queue import keys
from producers import ScoreRequest
from worker.demo.processes import DemoFailed
from worker.load.rig import Rig, rig

if TYPE_CHECKING:
    from worker.load.throughput import Load


@dataclass(frozen=True)
class Burst:
    """Figures of one burst. Times are seconds from the submission of a request to its callback."""

    tasks: int
    submitted_per_s: float
    tasks_per_s: float
    p50_s: float
    p95_s: float
    p99_s: float
    #: Bytes of Redis for each request while it waits.
    waiting_bytes: float
    #: Bytes of Redis for each request afterwards, while its verdict is kept.
    settled_bytes: float


def requests(endpoint: str, tasks: int) -> Iterator[ScoreRequest]:
    for number in range(tasks):
        yield ScoreRequest(
            image_url=f"http://{endpoint}/{number}.png",
            prompt=f"a grey square, number {number} of {tasks}, as nobody has asked for it before",
            callback_url=f"http://{endpoint}/verdicts",
        )


def measure(platform: Rig, tasks: int, rate: float | None) -> Burst:
    """Submit `tasks` requests, at once or `rate` a second, and wait for all of their callbacks."""
    client, redis, receiver = platform.client, platform.redis, platform.receiver
    before = _used(redis)
    began = time.monotonic()
    if rate is None:
        client.submit_many(requests(receiver.endpoint, tasks))
    else:
        for number, request in enumerate(requests(receiver.endpoint, tasks)):
            time.sleep(max(0.0, began + number / rate - time.monotonic()))
            # The time of submission, not that of making the request.
            client.submit_many([request.model_copy(update={"submitted_at": datetime.now(UTC)})])
    submitted_s = time.monotonic() - began
    waiting_bytes = (_most_used(redis) - before) / tasks
    latencies_s = [arrived.latency_s for arrived in receiver.wait(tasks)]
    took_s = time.monotonic() - began
    cuts = quantiles(latencies_s, n=100)
    return Burst(
        tasks=tasks,
        submitted_per_s=tasks / submitted_s,
        tasks_per_s=tasks / took_s,
        p50_s=cuts[49],
        p95_s=cuts[94],
        p99_s=cuts[98],
        waiting_bytes=waiting_bytes,
        settled_bytes=(_used(redis) - before) / tasks,
    )


def _most_used(redis: Redis) -> int:
    """Most bytes that Redis uses until workers have admitted all requests."""
    most = _used(redis)
    while any(redis.llen(keys.inbox(priority)) for priority in keys.PRIORITIES):
        time.sleep(0.02)
        most = max(most, _used(redis))
    return max(most, _used(redis))


def _used(redis: Redis) -> int:
    return int(redis.info("memory")["used_memory"])


def run(bursts: Sequence[int], rate: float | None) -> Iterator[Burst]:
    """Measure one burst after the other; each is submitted at once, or `rate` requests a second.

    Raises:
        DemoFailed: a worker did not come up, or a callback did not come.
    """
    with queue_alone() as platform:
        for tasks in bursts:
            yield measure(platform, tasks, rate)


def queue_alone(*, metrics: bool = False) -> AbstractContextManager[Rig]:
    """A platform whose model costs nothing, for `measure`."""
    image = io.BytesIO()
    Image.new("RGB", (64, 64), "grey").save(image, "PNG")
    return rig([image.getvalue()], (), metrics, score_threads=32, model="fake", max_batch=16, max_wait_ms=5)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and print a table; 0 if every callback came."""
    arguments = parser().parse_args(argv)
    if arguments.gpus is not None and arguments.model is None:
        parser().error("--gpus measures a model: name it with --model")
    try:
        if arguments.model is None:
            _measure_queue(arguments)
        elif arguments.gpus is not None:
            _measure_gpus(arguments)
        else:
            _measure_model(arguments)
    except (DemoFailed, M3AGIQAError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def parser() -> argparse.ArgumentParser:
    """The parser of the command."""
    parser = argparse.ArgumentParser(prog="python -m worker.load", description=main.__doc__)
    parser.add_argument(
        "bursts", nargs="*", type=int, default=[1000, 5000, 20_000], help="requests of each burst (1000 5000 20000)"
    )
    parser.add_argument("--rate", type=float, metavar="N", help="submit N a second instead of all at once")
    parser.add_argument("--model", metavar="PROFILE", help="measure this model with images, instead of the queue alone")
    parser.add_argument("--pictures", type=int, default=200, metavar="N", help="how many (200)")
    parser.add_argument("--side", type=int, default=512, metavar="N", help="their sides, pixels (512)")
    parser.add_argument("--max-batch", type=int, default=32, metavar="N", help="images scored together at most (32)")
    parser.add_argument(
        "--max-wait-ms", type=int, default=50, metavar="N", help="the first image of a batch waits for others (50)"
    )
    parser.add_argument(
        "--gpus",
        type=console.whole(most=64),
        metavar="N",
        help="with --model: a worker on each of N GPUs and N times as many images, against one worker alone",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--json", action="store_true", help="print one JSON object a burst, or for the model, instead")
    return parser


def _measure_queue(arguments: argparse.Namespace) -> None:
    table = Table("requests", "submitted/s", "done/s", "p50 s", "p95 s", "p99 s", "B waiting", "B settled")
    for measured in run(arguments.bursts, arguments.rate):
        if arguments.json:
            print(json.dumps(asdict(measured)), flush=True)
        first, *rest = asdict(measured).values()
        table.add_row(str(first), *(f"{value:.3g}" if value < 100 else f"{value:.0f}" for value in rest))
    if not arguments.json:
        _print(table)


def _load(arguments: argparse.Namespace) -> Load:
    from worker.load.throughput import Load

    return Load(
        arguments.model,
        arguments.device,
        arguments.pictures,
        arguments.max_batch,
        side=arguments.side,
        max_wait_ms=arguments.max_wait_ms,
    )


def _log(what: str) -> None:
    Console(stderr=True).print(f"{what} ...", style="dim")


def _measure_gpus(arguments: argparse.Namespace) -> None:
    from worker.load import scaling

    load = _load(arguments)
    measured = scaling.run(load, arguments.gpus, _log)
    if arguments.json:
        figures = {**asdict(load), **asdict(measured)}
        print(json.dumps({**figures, "pictures_per_s": measured.pictures_per_s, "share": measured.share}))
        return
    table = Table(
        *("workers", "images", "seconds", "images/s", "one alone, images/s", "share of N times one", "fill"),
        title=f"{load.model}, {load.side}x{load.side}, at most {load.max_batch} in a batch",
    )
    table.add_row(
        *(str(measured.gpus), str(measured.pictures), f"{measured.seconds:.1f}", f"{measured.pictures_per_s:.2f}"),
        *(f"{measured.one_per_s:.2f}", f"{measured.share:.2f}", f"{measured.batch / load.max_batch:.2f}"),
    )
    _print(table)


def _measure_model(arguments: argparse.Namespace) -> None:
    from worker.load import throughput

    load = _load(arguments)
    measured = throughput.run(load, _log)
    if arguments.json:
        print(json.dumps({**asdict(load), **asdict(measured), "share": measured.share}))
        return
    title = f"{load.model} on {load.device}, {load.side}x{load.side}, at most {load.max_batch} in a batch"
    table = Table("", "by way of the queue", "without it", title=title)
    for row in (
        ("images", str(measured.pictures), ""),
        ("seconds", f"{measured.seconds:.1f}", ""),
        ("images a second", f"{measured.pictures_per_s:.2f}", f"{measured.engine_per_s:.2f}"),
        ("share", f"{measured.share:.2f}", ""),
        ("images in a batch", f"{measured.batch:.1f}", str(load.max_batch)),
        ("model's seconds for a batch", f"{measured.batch_s:.2f}", f"{load.max_batch / measured.engine_per_s:.2f}"),
        ("seconds in the queue, p50, p95", f"{measured.queue_p50_s:.1f}, {measured.queue_p95_s:.1f}", ""),
        ("ms waiting for a batch, p50, p95", f"{measured.wait_p50_ms:.0f}, {measured.wait_p95_ms:.0f}", ""),
    ):
        table.add_row(*row)
    _print(table)


def _print(table: Table) -> None:
    Console(width=None if sys.stdout.isatty() else 120).print(table)
