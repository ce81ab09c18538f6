"""A platform on a bad day: it serves images and receives callbacks, and often does neither as it should."""

from __future__ import annotations

import random
import socket
import struct
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from standardwebhooks import Webhook, WebhookVerificationError

from m3agiqa.contract import Verdict
from tests.support import png

SECRET = "whsec_" + "c2VjcmV0" * 5
TROUBLES = ("500", "429", "hang", "reset")
#: One in so many requests meets each trouble.
ONE_IN = 25
#: Seconds that an answer hangs: longer than workers wait.
HANG_S = 4.0


@dataclass(frozen=True)
class Callback:
    webhook_id: str
    body: bytes
    verified: bool
    accepted: bool


class Platform:
    """Everything it received, and the troubles it made."""

    def __init__(self, server: ThreadingHTTPServer, seed: int) -> None:
        self.server = server
        self.calm = threading.Event()
        self.over = threading.Event()
        self.callbacks: defaultdict[str, list[Callback]] = defaultdict(list)
        self.troubles: Counter[str] = Counter()
        self._random = random.Random(seed)
        self._lock = threading.Lock()

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.server.server_port}"

    def url(self, path: str) -> str:
        return f"http://{self.endpoint}/{path}"

    def trouble(self, who: str) -> str | None:
        with self._lock:
            if self.calm.is_set():
                return None
            # Each of them once before it is left to chance, so that none is missing.
            missing = next((kind for kind in TROUBLES if not self.troubles[f"{who}: {kind}"]), None)
            draw = self._random.randrange(ONE_IN)
            kind = missing or (TROUBLES[draw] if draw < len(TROUBLES) else None)
            if kind is not None:
                self.troubles[f"{who}: {kind}"] += 1
            return kind

    def receive(self, headers: dict[str, str], body: bytes, *, accepted: bool) -> None:
        try:
            Webhook(SECRET).verify(body, headers)
            verified = True
        except WebhookVerificationError:
            verified = False
        request_id = Verdict.model_validate_json(body).request_id
        with self._lock:
            self.callbacks[request_id].append(Callback(headers["webhook-id"], body, verified, accepted))


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        kind = "404" if self.path.startswith("/missing/") else self.server.platform.trouble("image server")
        shade = int(self.path.rpartition("/")[2].partition(".")[0])
        self.answer(kind, png(shade))

    def do_POST(self) -> None:
        platform = self.server.platform
        body = self.rfile.read(int(self.headers["content-length"]))
        kind = "410" if self.path == "/gone" else platform.trouble("receiver")
        headers = {name.lower(): value for name, value in self.headers.items()}
        platform.receive(headers, body, accepted=kind is None)
        self.answer(kind, b"")

    def answer(self, trouble: str | None, body: bytes) -> None:
        if trouble == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            return
        if trouble == "hang":
            self.server.platform.over.wait(HANG_S)
            return
        self.send_response(200 if trouble is None else int(trouble))
        if trouble == "429":
            self.send_header("retry-after", "1")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    request_queue_size = 256
    daemon_threads = True
    platform: Platform

    def handle_error(self, *_: object) -> None:
        """Clients that are killed, and our own resets: no news."""


@contextmanager
def open_platform(seed: int) -> Iterator[Platform]:
    server = _Server(("127.0.0.1", 0), _Handler)
    server.platform = platform = Platform(server, seed)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield platform
    finally:
        platform.over.set()
        server.shutdown()
        server.server_close()
        thread.join()
