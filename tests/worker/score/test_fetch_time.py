from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from m3agiqa.errors import FetchUnavailable
from tests.support import PATIENCE_S
from tests.worker.conftest import Tripwire, trusting
from worker.score.fetch import Fetcher
from worker.settings import Settings


def drip_status(request: Any) -> None:
    request.drip(b"HTTP/1.0 200 OK and on and on ")


def drip_headers(request: Any) -> None:
    request.wfile.write(b"HTTP/1.0 200 OK\r\n")
    request.drip(b"x-more: of the same\r\n")


def drip_body(request: Any) -> None:
    request.reply(200, content_length="1000000")
    request.drip(b"x")


def drip_chunks(request: Any) -> None:
    request.wfile.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    request.drip(b"1\r\nx\r\n")


def drip_redirect(request: Any) -> None:
    request.wfile.write(b"HTTP/1.0 302 Found\r\nlocation: /")
    request.drip(b"x")


@pytest.mark.parametrize("answer", [drip_status, drip_headers, drip_body, drip_chunks, drip_redirect])
def test_a_server_that_never_stops_sending_a_little_is_given_up(answer: Any, serve: Any) -> None:
    # Given a server that drips for as long as anyone listens: each single wait is short
    server = serve(answer)
    with pytest.raises(FetchUnavailable, match=r"took more than 0\.5 s"):
        trusting(server, fetch_timeout_s=0.5).fetch(server.url)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_server_that_says_nothing_is_given_up(scheme: str, tripwire: Tripwire) -> None:
    netloc = f"127.0.0.1:{tripwire.port}"
    with pytest.raises(FetchUnavailable, match="took more than"):
        Fetcher(Settings(fetch_allow_hosts=(netloc,), fetch_timeout_s=0.3)).fetch(f"{scheme}://{netloc}/")


@pytest.mark.parametrize("answer", [drip_status, drip_headers, drip_redirect])
def test_a_server_must_begin_to_answer_sooner(answer: Any, serve: Any) -> None:
    server = serve(answer)
    with pytest.raises(FetchUnavailable, match=r"127\.0\.0\.1 did not begin to answer within 0\.3 s"):
        trusting(server, fetch_first_byte_s=0.3, fetch_timeout_s=PATIENCE_S).fetch(server.url)


def test_once_it_began_to_answer_a_server_has_all_the_time(serve: Any) -> None:
    def answer(request: Any) -> None:
        request.reply(200, b"pict", content_length="7")
        request.server.over.wait(1)
        request.wfile.write(b"ure")

    server = serve(answer)
    assert trusting(server, fetch_first_byte_s=0.5, fetch_timeout_s=PATIENCE_S).fetch(server.url) == b"picture"


def test_redirects_share_one_deadline(serve: Any) -> None:
    def answer(request: Any) -> None:
        request.server.over.wait(0.3)
        request.reply(302, location="/on")

    server = serve(answer)
    with pytest.raises(FetchUnavailable, match="took more than"):
        trusting(server, fetch_timeout_s=0.5).fetch(server.url)
    assert len(server.received) <= 2


def test_threads_share_a_fetcher_without_sharing_a_deadline(serve: Any) -> None:
    def answer(request: Any) -> None:
        if request.path == "/slow":
            request.drip(b"x")
        request.reply(200, request.path.encode() * 1000)

    server = serve(answer)
    fetcher = trusting(server, fetch_timeout_s=3)
    with ThreadPoolExecutor(17) as threads:
        slow = threads.submit(fetcher.fetch, f"{server.url}/slow")
        paths = [f"/{number}" for number in range(64)]
        bodies = list(threads.map(lambda path: fetcher.fetch(server.url + path), paths))
        assert bodies == [path.encode() * 1000 for path in paths]
        with pytest.raises(FetchUnavailable):
            slow.result()


@pytest.fixture
def tls_server(serve: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Starts an HTTPS server for the given name, its private authority named by SSL_CERT_FILE."""

    def start(name: str, answer: Any) -> Any:
        import ssl

        certificate = self_signed(name, tmp_path)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server = serve(answer)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        return server

    return start


def self_signed(name: str, folder: Any) -> Any:
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = folder / f"{name}.pem"
    file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return file


def test_https_names_the_host_and_checks_its_certificate(tls_server: Any, internet: Any) -> None:
    server = tls_server("images.example", lambda request: request.reply(200, b"picture"))
    internet(server.server_port)
    assert Fetcher(Settings()).fetch("https://images.example/x") == b"picture"
    assert server.received[0].headers["host"] == "images.example"


def test_a_certificate_for_another_name_is_no_connection(tls_server: Any, internet: Any) -> None:
    server = tls_server("other.example", lambda request: request.reply(200, b"picture"))
    internet(server.server_port)
    with pytest.raises(FetchUnavailable, match="SSLError"):
        Fetcher(Settings()).fetch("https://images.example/x")
    assert server.received == []


def test_a_trusted_host_must_show_a_certificate_too(tls_server: Any) -> None:
    server = tls_server("other.example", lambda request: request.reply(200, b"picture"))
    with pytest.raises(FetchUnavailable, match="SSLError"):
        trusting(server).fetch(f"https://{server.netloc}/")
    assert server.received == []


def test_the_deadline_holds_through_tls(tls_server: Any, internet: Any) -> None:
    server = tls_server("images.example", drip_headers)
    internet(server.server_port)
    with pytest.raises(FetchUnavailable, match="took more than"):
        Fetcher(Settings(fetch_timeout_s=0.7)).fetch("https://images.example/x")


@pytest.mark.parametrize("trusted", [True, False])
def test_a_resolver_that_never_answers_is_given_up(trusted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    # given a name whose lookup does not end
    over = threading.Event()

    def getaddrinfo(*_: Any, **__: Any) -> Any:
        over.wait(60)
        raise socket.gaierror("the test is over")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    fetcher = Fetcher(Settings(fetch_timeout_s=0.5, fetch_allow_hosts=("slow.example:80",) if trusted else ()))
    # when something is fetched from there, then it takes no longer than it may
    with pytest.raises(FetchUnavailable, match=r"took more than 0\.5 s"):
        fetcher.fetch("http://slow.example/")
    over.set()
