"""Slow servers on this machine."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from worker.load.rig import Receiver

#: Number of addresses, and of names for the first address.
ADDRESSES = 40
#: Seconds between two bytes of an image, and until a callback is answered.
_BYTE_S, _ANSWER_S = 1.0, 8.0


class SlowServers:
    """An HTTP server at each of many addresses of this machine. It sends images a byte a second, and answers callbacks
    after seconds; `hurry` ends all waits.
    """

    def __init__(self) -> None:
        self._over = threading.Event()
        self._receiver: Receiver | None = None
        first = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._port = first.server_port
        others = [f"127.0.0.{number}" for number in range(2, 1 + ADDRESSES)]
        self._servers = [first, *(ThreadingHTTPServer((host, self._port), self._handler()) for host in others)]
        self.addresses = [f"{host}:{self._port}" for host in ("127.0.0.1", *others)]
        #: Spellings of one address that only a resolver recognises as the same.
        self.names = [f"0x{'0' * number}7f.1:{self._port}" for number in range(ADDRESSES)]

    @contextmanager
    def serving(self) -> Iterator[None]:
        for server in self._servers:
            server.socket.listen(1024)
            threading.Thread(target=server.serve_forever, daemon=True).start()
        yield
        self.hurry()
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def slow_again(self, receiver: Receiver) -> None:
        """Be slow from now on, and pass each callback on to `receiver` once it is answered."""
        self._receiver = receiver
        self._over.clear()

    def hurry(self) -> None:
        self._over.set()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        servers = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Length", "1000")
                self.end_headers()
                with suppress(OSError):  # the worker gives up first
                    while not servers._over.wait(_BYTE_S):
                        self.wfile.write(b"\0")

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                servers._over.wait(_ANSWER_S)
                with suppress(OSError):
                    self.send_response(204)
                    self.end_headers()
                assert servers._receiver is not None, "nobody calls back before it is slow"
                servers._receiver.receive(body)

            def log_message(self, *_: object) -> None:
                """The table says what happened."""

        return Handler
