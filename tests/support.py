"""What tests of the queue share: waiting for events, an image server, worker processes."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TypeVar

from PIL import Image
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from worker.ops.health import is_ready

ROOT = Path(__file__).resolve().parent.parent
#: Seconds. Generous: the machine may be busy; nothing waits so long when all is well.
PATIENCE_S = 90.0

T = TypeVar("T")


def eventually(probe: Callable[[], T], what: str, patience_s: float = PATIENCE_S) -> T:
    """The first true value of `probe`, which is asked again until `patience_s` seconds are over."""
    until = time.monotonic() + patience_s
    while not (value := probe()):
        if time.monotonic() > until:
            raise AssertionError(f"not within {patience_s:g} s: {what}")
        time.sleep(0.02)
    return value


def free_port() -> int:
    """A port of loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def samples(text: str) -> dict[str, float]:
    """Every sample of a page for Prometheus, by its name and the values of its labels, which their names order."""
    families = list(text_string_to_metric_families(text))
    assert all(family.documentation for family in families)
    return {
        "|".join([one.name, *(value for _, value in sorted(one.labels.items()))]): one.value
        for family in families
        for one in family.samples
        if not one.name.endswith("_created")
    }


def labels(families: Iterable[Metric]) -> dict[str, set[str]]:
    """Names of the labels of each family for Prometheus that has samples, by its name without `_total`."""
    return {family.name: {name for one in family.samples for name in one.labels} - {"le"} for family in families}


def png(shade: int = 0, side: int = 16) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (side, side), (shade % 256, shade // 256 % 256, 0)).save(out, "PNG")
    return out.getvalue()


@dataclass
class Web:
    """An HTTP server on loopback. It answers with what `answers` holds for the path, by default 200 and an image."""

    server: ThreadingHTTPServer
    #: Path to the statuses it answers with, one after the other; the last one stays.
    answers: dict[str, list[int]] = field(default_factory=dict)
    requests: list[tuple[str, str, bytes]] = field(default_factory=list)
    #: Images that differ from the others, by their path.
    images: dict[str, bytes] = field(default_factory=dict)
    #: Images are served only while it is set, and this many seconds late.
    gate: threading.Event = field(default_factory=threading.Event)
    delay_s: float = 0.0

    def __post_init__(self) -> None:
        self.gate.set()

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.server.server_port}"

    def url(self, path: str) -> str:
        return f"http://{self.endpoint}/{path}"

    def count(self, path: str) -> int:
        return sum(1 for _, asked, _ in self.requests if asked == f"/{path}")

    def status(self, path: str) -> int:
        left = self.answers.get(path.lstrip("/"), [200])
        return left.pop(0) if len(left) > 1 else left[0]


@contextmanager
def serving() -> Iterator[Web]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            web.gate.wait(PATIENCE_S)
            time.sleep(web.delay_s)
            self.answer(web.images.get(self.path.lstrip("/")) or png())

        def do_POST(self) -> None:
            self.answer(b"")

        def answer(self, body: bytes) -> None:
            got = self.rfile.read(int(self.headers.get("content-length", 0)))
            web.requests.append((self.command, self.path, got))
            self.send_response(web.status(self.path))
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 128

        def handle_error(self, *_: object) -> None:
            """A worker that is killed hangs up in the middle: no news."""

    web = Web(Server(("127.0.0.1", 0), Handler))
    thread = threading.Thread(target=web.server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield web
    finally:
        web.gate.set()
        web.server.shutdown()
        web.server.server_close()
        thread.join()


@dataclass
class Worker:
    """A `celery worker` process."""

    process: subprocess.Popen[bytes]
    log_file: Path
    health_dir: Path

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def wait_ready(self, queue: str) -> None:
        def ready() -> bool:
            if self.process.poll() is not None:
                raise AssertionError(f"the worker ended with {self.process.returncode}:\n{self.log}")
            return is_ready(self.health_dir, queue, self.process.pid)

        eventually(ready, f"worker of {queue} ready")

    def terminate(self) -> int:
        """SIGTERM, and wait for the end; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_S)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE_S)


def start_worker(folder: Path, queue: str, *, concurrency: int | None, prelude: str = "", **settings: object) -> Worker:
    """Start a worker with `settings` (names without M3AGIQA_), and nothing else of ours, in its environment.

    `concurrency` is its -c, which None leaves out; `prelude` is Python run in its process before Celery.
    """
    folder.mkdir(parents=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("M3AGIQA_")}
    settings = {"health_dir": folder / "health", **settings}
    environment |= {f"M3AGIQA_{name.upper()}": str(value) for name, value in settings.items()}
    arguments = ["-A", "worker.app", "worker", "-P", "threads", "-Q", queue, "-l", "INFO"]
    arguments += [] if concurrency is None else ["-c", str(concurrency)]
    program = f"{prelude}\nimport sys\nfrom celery.__main__ import main\nsys.argv[0] = 'celery'\nsys.exit(main())"
    log_file = folder / "log"
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", program, *arguments, "-n", f"{folder.name}@test", "--without-mingle"],
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    return Worker(process, log_file, Path(str(settings["health_dir"])))
