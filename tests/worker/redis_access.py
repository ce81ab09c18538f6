"""What tests of Redis as it is run share: workers of both queues, and a front that speaks TLS."""

from __future__ import annotations

import datetime
import ipaddress
import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from celery import Celery
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydantic import SecretStr

from tests.support import PATIENCE_S, Web, start_worker
from worker.app import configuration
from worker.settings import Settings

SETTINGS: dict[str, object] = {"model": "fake", "max_batch": 4, "webhook_secrets": "whsec_" + "c2VjcmV0" * 5}


@contextmanager
def running(folder: Path, redis_urls: dict[str, str], web: Web, **settings: object) -> Iterator[None]:
    """A worker of each queue."""
    places = {"fetch_allow_hosts": web.endpoint, "deliver_allow_hosts": web.endpoint}
    workers = [
        start_worker(
            folder / queue, queue, concurrency=8, redis_url=redis_urls[queue], **places, **SETTINGS, **settings
        )
        for queue in ("score", "deliver")
    ]
    try:
        for worker, queue in zip(workers, ("score", "deliver"), strict=True):
            worker.wait_ready(queue)
        yield
        for worker in workers:
            worker.process.terminate()
        assert [worker.process.wait(PATIENCE_S) for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            worker.kill()


def neighbours(redis_url: str) -> list[str]:
    """The first two workers that Flower would find: they answer, and their heartbeats are heard."""
    with Celery(set_as_current=False) as monitor:
        monitor.conf.update(configuration(Settings(redis_url=SecretStr(redis_url))))
        answers = monitor.control.ping(timeout=PATIENCE_S, limit=2)
        heard: list[object] = []
        with monitor.connection_for_read() as connection:
            receiver = monitor.events.Receiver(connection, handlers={"worker-heartbeat": heard.append})
            listening = receiver.itercapture(limit=None, timeout=30, wakeup=True)
            while not heard:
                next(listening)
    return [name for answer in answers for name in answer]


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that vouches for itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "redis")])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = folder / "redis.crt", folder / "redis.key"
    files[0].write_bytes(built.public_bytes(serialization.Encoding.PEM))
    no_password = serialization.NoEncryption()
    files[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, no_password))
    return files


class Terminator(socketserver.ThreadingTCPServer):
    """Speaks TLS for a Redis that does not, as a managed service's front does."""

    daemon_threads = True

    def __init__(self, certificate: tuple[Path, Path], behind: int, rename: tuple[bytes, bytes]) -> None:
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.load_cert_chain(*certificate)
        self.behind = behind
        self.rename = rename
        super().__init__(("127.0.0.1", 0), Relay)

    def handle_error(self, *_: object) -> None:
        """Clients that do not trust us hang up: that is what they are tested for."""


class Relay(socketserver.BaseRequestHandler):
    server: Terminator

    def handle(self) -> None:
        with (
            self.server.tls.wrap_socket(self.request, server_side=True) as client,
            socket.create_connection(("127.0.0.1", self.server.behind)) as redis,
        ):
            threading.Thread(target=self.pump, args=(redis, client), daemon=True).start()
            self.pump(client, redis)

    def pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                sink.sendall(data.replace(*self.server.rename))
            sink.shutdown(socket.SHUT_RDWR)


@contextmanager
def terminating(certificate: tuple[Path, Path], behind: int, rename: tuple[bytes, bytes] = (b"", b"")) -> Iterator[int]:
    """A port that speaks TLS for the Redis at port `behind`. The first of `rename` becomes the second in all that
    passes; both are of one length.
    """
    with Terminator(certificate, behind, rename) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()
