"""Real servers on loopback for whatever goes out to the web."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from urllib3.util import connection

from m3agiqa.contract import ScoreRequest
from m3agiqa.queue import inbox, keys
from m3agiqa.queue.ledger import Ledger
from tests.worker.redis_access import make_certificate
from worker.score.fetch import Fetcher
from worker.settings import Settings

Answer = Callable[["Handler"], None]


@dataclass
class Received:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Handler(BaseHTTPRequestHandler):
    """Writes down every request, then lets the test's own function answer it."""

    server: HttpServer

    def answer(self) -> None:
        length = int(self.headers.get("content-length", 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.received.append(Received(self.command, self.path, headers, self.rfile.read(length)))
        self.server.answers(self)

    do_GET = do_HEAD = do_POST = do_PUT = answer  # noqa: N815

    def reply(self, status: int = 200, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "content_length" not in headers:
            self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def drip(self, data: bytes) -> None:
        """Send `data` over and over, a byte at a time, until the client is gone or the test is over."""
        while not self.server.over.wait(0.01):
            for byte in data:
                self.wfile.write(bytes([byte]))
                if self.server.over.wait(0.01):
                    return

    def log_message(self, format: str, *args: object) -> None:
        pass


class HttpServer(ThreadingHTTPServer):
    daemon_threads = True
    #: A connection that does not fit in is tried again after a second.
    request_queue_size = 128

    def __init__(self, answers: Answer, address: str) -> None:
        super().__init__((address, 0), Handler)
        self.answers = answers
        self.received: list[Received] = []
        self.over = threading.Event()

    @property
    def netloc(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    @property
    def url(self) -> str:
        return f"http://{self.netloc}"

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # clients that hang up are what these tests are about


@pytest.fixture
def serve() -> Iterator[Callable[..., HttpServer]]:
    """Starts an HTTP server that answers with the given function."""
    servers = []

    def start(answers: Answer, address: str = "127.0.0.1") -> HttpServer:
        server = HttpServer(answers, address)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.over.set()
        server.shutdown()
        server.server_close()


@dataclass
class Connects:
    """Every connection this process tries to open; those that would leave this machine are refused on the spot."""

    watching: bool = False
    tried: list[tuple[object, ...]] = field(default_factory=list)

    def hook(self, event: str, args: tuple[object, ...]) -> None:
        if event == "socket.connect" and self.watching and isinstance(address := args[1], tuple):
            self.tried.append(address)
            if address[0] != "127.0.0.1":
                raise ConnectionRefusedError(f"tests stay on loopback: {address}")


_connects = Connects()
_hooked = threading.Event()


@pytest.fixture
def connects() -> Iterator[Connects]:
    if not _hooked.is_set():
        sys.addaudithook(_connects.hook)  # cannot be removed, so there is one for all tests
        _hooked.set()
    _connects.tried.clear()
    _connects.watching = True
    yield _connects
    _connects.watching = False


class Tripwire:
    """A listening socket that nothing may connect to."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.socket.setblocking(False)
        self.port = self.socket.getsockname()[1]

    def touched(self) -> bool:
        # The kernel queues a connection before connect() returns, so none can be on its way still.
        try:
            self.socket.accept()[0].close()
        except BlockingIOError:
            return False
        return True


@pytest.fixture
def tripwire() -> Iterator[Tripwire]:
    wire = Tripwire()
    yield wire
    wire.socket.close()


PUBLIC = "93.184.215.14"


def resolver(monkeypatch: pytest.MonkeyPatch, names: dict[str, list[str]]) -> list[str]:
    """Let `names` resolve to their addresses, one a question, the last for good; gives the names asked for."""
    real, asked = socket.getaddrinfo, []

    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host not in names:
            return real(host, *args, **kwargs)
        asked.append(host)
        answers = names[host]
        return real(answers.pop(0) if len(answers) > 1 else answers[0], *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


@pytest.fixture
def internet(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Puts a public host, images.example, where a local server listens: its name and route are made up, no more."""

    def lead_to(port: int) -> None:
        real = connection.create_connection
        resolver(monkeypatch, {"images.example": [PUBLIC]})

        def create_connection(address: tuple[str, int], *args: Any, **kwargs: Any) -> socket.socket:
            assert address[0] == PUBLIC
            return real(("127.0.0.1", port), *args, **kwargs)

        monkeypatch.setattr(connection, "create_connection", create_connection)

    return lead_to


def trusting(*servers: Any, **settings: Any) -> Fetcher:
    return Fetcher(Settings(fetch_allow_hosts=tuple(server.netloc for server in servers), **settings))


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that vouches for itself, and its key."""
    return make_certificate(tmp_path)


@pytest.fixture
def ledger(redis_url: str) -> Iterator[Ledger]:
    """A worker's view of an empty Redis; a lease lasts 1,000 s, and the third run that is lost is one too many."""
    ledger = Ledger(redis_url, lease_s=1000, longest_run_s=1000, max_lost_runs=2, result_ttl_s=100)
    yield ledger
    ledger.close()


def owed(ledger: Ledger, redis: Redis, request: ScoreRequest) -> str:
    """The task of a request that was submitted and taken in."""
    inbox.push(redis, [request])
    ledger.admit(request.priority)
    return request.name


def come_due(ledger: Ledger, redis: Redis, seconds: float) -> int:
    """Let `seconds` pass for what is owed; returns how many tasks were overdue then."""
    for task in map(str, redis.zrange(keys.OWED, 0, -1)):
        redis.zincrby(keys.OWED, -seconds, task)
    return ledger.sweep()
