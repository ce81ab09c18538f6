from __future__ import annotations

import socket
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import boto3
import pytest

from m3agiqa.errors import ConfigError, FetchForbidden, FetchRefused, FetchUnavailable, ImageTooLarge
from worker.fetch import MAX_REDIRECTS, Fetcher
from worker.settings import Settings

PUBLIC = "93.184.215.14"


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


def trusting(*servers: Any, **settings: Any) -> Fetcher:
    return Fetcher(Settings(fetch_allow_hosts=tuple(server.netloc for server in servers), **settings))


# --- addresses ---------------------------------------------------------------------------------------------------

HOSTILE = [
    "http://127.0.0.1:{port}/",
    "http://127.1:{port}/",
    "http://127.0.1:{port}/",
    "http://2130706433:{port}/",
    "http://0x7f000001:{port}/",
    "http://0x7f.0.0.1:{port}/",
    "http://0177.0.0.1:{port}/",
    "http://017700000001:{port}/",
    "http://127.000.000.001:{port}/",
    "http://0.0.0.0:{port}/",
    "http://0:{port}/",
    "http://127.200.3.4:{port}/",
    "http://[::1]:{port}/",
    "http://[::]:{port}/",
    "http://[::ffff:127.0.0.1]:{port}/",
    "http://[::ffff:7f00:1]:{port}/",
    "http://[::127.0.0.1]:{port}/",
    "http://[0:0:0:0:0:ffff:7f00:0001]:{port}/",
    "http://[64:ff9b::7f00:1]:{port}/",
    "http://[64:ff9b:1::7f00:1]:{port}/",
    "http://[2002:7f00:1::]:{port}/",
    "http://[2001:0:7f00:1::]:{port}/",
    "http://[fd00:ec2::254]:{port}/",
    "http://[fe80::1]:{port}/",
    "http://[fec0::1]:{port}/",
    "http://[ff02::1]:{port}/",
    "http://localhost:{port}/",
    "http://LOCALHOST:{port}/",
    "http://localhost.:{port}/",
    "http://inside.example:{port}/",
    "http://10.0.0.1:{port}/",
    "http://172.16.0.1:{port}/",
    "http://192.168.1.1:{port}/",
    "http://100.64.0.1:{port}/",
    "http://100.100.100.200:{port}/",
    "http://169.254.169.254:{port}/latest/meta-data/",
    "http://2852039166:{port}/latest/meta-data/",
    "http://168.63.129.16:{port}/",
    "http://192.0.0.192:{port}/",
    "http://198.18.0.1:{port}/",
    "http://224.0.0.1:{port}/",
    "http://255.255.255.255:{port}/",
    "http://①②⑦.⓪.⓪.①:{port}/",
    "http://127。0。0。1:{port}/",
    "http://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ:{port}/",
    "https://127.0.0.1:{port}/",
    "http://user:password@127.0.0.1:{port}/",
    "http://pictures.example@127.0.0.1:{port}/",
    "http://127.0.0.1:{port}@pictures.example/",
    "http://127.0.0.1:{port}\\@pictures.example/",
    "http://127.0.0.1:{port}#@pictures.example/",
    "http://127.0.0.1:{port}?@pictures.example/",
    "http:///127.0.0.1:{port}/",
    "http:127.0.0.1:{port}/",
    "//127.0.0.1:{port}/",
    "127.0.0.1:{port}/",
    "http://:{port}/",
    "http://[127.0.0.1]:{port}/",
    "http://[::1%25lo]:{port}/",
    "http://127.0.0.1:{port}0000/",
    "http://127.0.0.1:22/",
    "http://127.0.0.1:6379/",
    "http://127.0.0.1:0/",
    "http://a..b:{port}/",
    "http://" + "a" * 70 + ".example:{port}/",
    "file:///etc/passwd",
    "ftp://127.0.0.1:{port}/",
    "gopher://127.0.0.1:{port}/_x",
    "data:image/png;base64,AAAA",
    "httpx://127.0.0.1:{port}/",
    "http+unix://%2Fvar%2Frun%2Fdocker.sock/",
    "s3://private-bucket/key",
    "S3://private-bucket/key",
    "",
    "http://",
]


@pytest.mark.parametrize("template", HOSTILE)
def test_a_url_that_leads_inside_is_forbidden_before_any_connection(
    template: str, tripwire: Tripwire, connects: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a port that is allowed, so that nothing but the address speaks against the URL
    resolver(monkeypatch, {name: ["127.0.0.1"] for name in ("inside.example", "localhost", "localhost.")})
    fetcher = Fetcher(Settings(fetch_ports=(tripwire.port, 443)))
    # When it is fetched, then it is refused for good
    with pytest.raises(FetchForbidden):
        fetcher.fetch(template.format(port=tripwire.port))
    assert connects.tried == []
    assert not tripwire.touched()


def test_the_tripwire_and_the_watch_on_connections_do_notice_one(tripwire: Tripwire, connects: Any) -> None:
    netloc = f"127.0.0.1:{tripwire.port}"
    with pytest.raises(FetchUnavailable):
        Fetcher(Settings(fetch_allow_hosts=(netloc,), fetch_timeout_s=0.3)).fetch(f"http://{netloc}/")
    assert connects.tried == [("127.0.0.1", tripwire.port)]
    assert tripwire.touched()


def test_the_address_that_was_checked_is_the_one_connected_to(
    tripwire: Tripwire, connects: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a name server that answers with a public address first and a private one from then on
    asked = resolver(monkeypatch, {"rebind.example": [PUBLIC, "127.0.0.1"]})
    fetcher = Fetcher(Settings(fetch_ports=(tripwire.port,)))
    with pytest.raises(FetchUnavailable):
        fetcher.fetch(f"http://rebind.example:{tripwire.port}/")
    # Then the second answer was never asked for
    assert asked == ["rebind.example"]
    assert connects.tried == [(PUBLIC, tripwire.port)]
    assert not tripwire.touched()


@pytest.mark.parametrize("host", ["localhost", "127.1", "[::ffff:127.0.0.1]", "127.0.0.1."])
def test_another_spelling_of_an_allowed_host_is_not_allowed(host: str, serve: Any, connects: Any) -> None:
    server = serve(lambda request: request.reply(200, b"inside"))
    with pytest.raises(FetchForbidden):
        trusting(server).fetch(f"http://{host}:{server.server_port}/")
    assert server.received == []


def test_an_allowed_host_is_allowed_on_its_port_alone(serve: Any, connects: Any) -> None:
    server, other = serve(lambda request: request.reply()), serve(lambda request: request.reply())
    with pytest.raises(FetchForbidden):
        trusting(server, fetch_ports=(other.server_port,)).fetch(f"{other.url}/")
    assert other.received == []


@pytest.mark.parametrize("entry", ["localhost", "http://localhost:80", "localhost:http", "a b:80", ":80", "u@h:80"])
def test_an_allow_list_entry_that_could_never_match_is_an_error(entry: str) -> None:
    with pytest.raises(ConfigError, match="host:port"):
        Fetcher(Settings(fetch_allow_hosts=(entry,)))


def test_a_name_that_does_not_resolve_may_be_tried_again() -> None:
    with pytest.raises(FetchUnavailable, match=r"nowhere\.invalid"):
        Fetcher(Settings()).fetch("http://nowhere.invalid/secret?token=1")


# --- a public server ---------------------------------------------------------------------------------------------


@pytest.fixture
def internet(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Puts a public host, pictures.example, where a local server listens: its name and route are made up, no more."""

    def lead_to(port: int) -> None:
        from urllib3.util import connection

        real = connection.create_connection
        resolver(monkeypatch, {"pictures.example": [PUBLIC]})

        def create_connection(address: tuple[str, int], *args: Any, **kwargs: Any) -> socket.socket:
            assert address[0] == PUBLIC
            return real(("127.0.0.1", port), *args, **kwargs)

        monkeypatch.setattr(connection, "create_connection", create_connection)

    return lead_to


def test_a_public_picture_is_fetched(serve: Any, internet: Callable[[int], None]) -> None:
    server = serve(lambda request: request.reply(200, b"picture"))
    internet(server.server_port)
    assert Fetcher(Settings()).fetch("http://pictures.example/a%20b.png?size=1&s=%2F") == b"picture"
    [request] = server.received
    assert request.path == "/a%20b.png?size=1&s=%2F"
    assert request.headers["host"] == "pictures.example"
    assert request.headers["user-agent"].startswith("m3agiqa/")


def test_a_public_server_that_redirects_inside_is_not_followed(
    serve: Any, internet: Callable[[int], None], tripwire: Tripwire
) -> None:
    target = f"http://127.0.0.1:{tripwire.port}/"
    server = serve(lambda request: request.reply(302, location=target))
    internet(server.server_port)
    with pytest.raises(FetchForbidden):
        Fetcher(Settings(fetch_ports=(80, tripwire.port))).fetch("http://pictures.example/")
    assert len(server.received) == 1
    assert not tripwire.touched()


# --- redirects ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.1:{port}/",
        "//127.0.0.1:{port}/",
        "http://169.254.169.254/",
        "http://user@127.0.0.1:{port}/",
        "file:///etc/passwd",
        "s3://bucket/key",
        "http://[::1",
        "http://[::ffff:127.0.0.1]:{port}/",
    ],
)
def test_a_redirect_is_checked_like_any_url(location: str, serve: Any, tripwire: Tripwire) -> None:
    server = serve(lambda request: request.reply(307, location=location.format(port=tripwire.port)))
    with pytest.raises(FetchForbidden):
        trusting(server, fetch_ports=(80, tripwire.port), fetch_s3_buckets=("bucket",)).fetch(server.url)
    assert not tripwire.touched()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_few_redirects_are_followed_without_cookies(status: int, serve: Any) -> None:
    def answer(request: Any) -> None:
        hop = int(request.path[1:])
        if hop == MAX_REDIRECTS:
            request.reply(200, b"picture")
        else:
            request.reply(status, location=str(hop + 1), set_cookie="who=you; Path=/")

    server = serve(answer)
    assert trusting(server).fetch(f"{server.url}/0") == b"picture"
    assert len(server.received) == 1 + MAX_REDIRECTS
    assert not any("cookie" in request.headers for request in server.received)


def test_redirects_without_end_are_refused(serve: Any) -> None:
    server = serve(lambda request: request.reply(302, location="/again?token=SECRET"))
    with pytest.raises(FetchRefused, match="redirects") as failure:
        trusting(server).fetch(server.url)
    assert "SECRET" not in str(failure.value)
    assert len(server.received) == 1 + MAX_REDIRECTS


def test_the_body_of_a_redirect_is_not_read(serve: Any) -> None:
    def answer(request: Any) -> None:
        if request.path == "/end":
            request.reply(200, b"picture")
        else:
            request.reply(302, location="/end", content_length=str(10**12))
            request.drip(b"x")

    server = serve(answer)
    assert trusting(server, fetch_timeout_s=30).fetch(server.url) == b"picture"


# --- answers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [204, 206, 300, 304, 400, 401, 403, 404, 410, 416, 451])
def test_what_a_server_will_not_serve_is_refused_for_good(status: int, serve: Any) -> None:
    server = serve(lambda request: request.reply(status))
    with pytest.raises(FetchRefused, match=f"127.0.0.1 answered {status}"):
        trusting(server).fetch(f"{server.url}/private/path?signature=SECRET")


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 599])
def test_what_a_server_cannot_serve_now_may_be_tried_again(status: int, serve: Any) -> None:
    server = serve(lambda request: request.reply(status))
    with pytest.raises(FetchUnavailable, match=f"127.0.0.1 answered {status}"):
        trusting(server).fetch(f"{server.url}/private/path?signature=SECRET")


def test_a_closed_port_may_be_tried_again(tripwire: Tripwire) -> None:
    tripwire.socket.close()
    netloc = f"127.0.0.1:{tripwire.port}"
    with pytest.raises(FetchUnavailable):
        Fetcher(Settings(fetch_allow_hosts=(netloc,))).fetch(f"http://{netloc}/")


def test_a_body_that_breaks_off_may_be_tried_again(serve: Any) -> None:
    server = serve(lambda request: request.reply(200, b"half", content_length="8"))
    with pytest.raises(FetchUnavailable):
        trusting(server).fetch(server.url)


def test_gibberish_instead_of_http_may_be_tried_again(serve: Any) -> None:
    server = serve(lambda request: request.wfile.write(b"\x00\x01 no http at all\r\n\r\n"))
    with pytest.raises(FetchUnavailable):
        trusting(server).fetch(server.url)


def test_a_compressed_answer_is_refused(serve: Any) -> None:
    server = serve(lambda request: request.reply(200, b"bomb", content_encoding="gzip"))
    with pytest.raises(FetchRefused, match="compressed"):
        trusting(server).fetch(server.url)
    assert server.received[0].headers["accept-encoding"] == "identity"


def test_no_failure_shows_path_query_or_credentials(serve: Any, tripwire: Tripwire) -> None:
    server = serve(lambda request: request.reply(404))
    slow = f"127.0.0.1:{tripwire.port}"
    fetcher = Fetcher(Settings(fetch_allow_hosts=(server.netloc, slow), fetch_timeout_s=0.3, fetch_ports=(80,)))
    for start in (
        server.url,
        f"http://{slow}",
        "http://10.0.0.1",
        "http://nowhere.invalid",
        "http://x:SECRET@y.example",
        "http://127.0.0.1:99999",
        "s3://bucket",
        "ftp://y.example",
    ):
        with pytest.raises((FetchForbidden, FetchRefused, FetchUnavailable)) as failure:
            fetcher.fetch(f"{start}/SECRET/path?signature=SECRET#SECRET")
        assert "SECRET" not in "".join(traceback.format_exception_only(failure.value))
        assert failure.value.__suppress_context__ or failure.value.__context__ is None


def test_proxies_of_the_environment_are_not_used(
    serve: Any, tripwire: Tripwire, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{tripwire.port}")
    server = serve(lambda request: request.reply(200, b"picture"))
    assert trusting(server).fetch(server.url) == b"picture"
    assert not tripwire.touched()


# --- size --------------------------------------------------------------------------------------------------------


def test_a_picture_of_exactly_the_limit_passes_and_one_byte_more_does_not(serve: Any) -> None:
    server = serve(lambda request: request.reply(200, b"x" * int(request.path[1:])))
    fetcher = trusting(server, fetch_max_bytes=100_000)
    assert len(fetcher.fetch(f"{server.url}/100000")) == 100_000
    with pytest.raises(ImageTooLarge):
        fetcher.fetch(f"{server.url}/100001")


def test_an_announced_size_over_the_limit_is_enough(serve: Any) -> None:
    # Given a server that announces much and then sends nothing
    def answer(request: Any) -> None:
        request.reply(200, content_length="1000001")
        request.server.over.wait(60)

    server = serve(answer)
    with pytest.raises(ImageTooLarge, match="1000001"):
        trusting(server, fetch_max_bytes=1_000_000, fetch_timeout_s=60).fetch(server.url)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_without_end_is_cut_off_at_the_limit(chunked: bool, serve: Any) -> None:
    def answer(request: Any) -> None:
        request.protocol_version = "HTTP/1.1"
        request.send_response(200)
        if chunked:
            request.send_header("transfer-encoding", "chunked")
        request.end_headers()
        while not request.server.over.is_set():
            request.wfile.write(b"4000\r\n" + b"x" * 0x4000 + b"\r\n" if chunked else b"x" * 0x4000)

    server = serve(answer)
    with pytest.raises(ImageTooLarge):
        trusting(server, fetch_max_bytes=1_000_000, fetch_timeout_s=60).fetch(server.url)


# --- time --------------------------------------------------------------------------------------------------------


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


# --- TLS ---------------------------------------------------------------------------------------------------------


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
    server = tls_server("pictures.example", lambda request: request.reply(200, b"picture"))
    internet(server.server_port)
    assert Fetcher(Settings()).fetch("https://pictures.example/x") == b"picture"
    assert server.received[0].headers["host"] == "pictures.example"


def test_a_certificate_for_another_name_is_no_connection(tls_server: Any, internet: Any) -> None:
    server = tls_server("other.example", lambda request: request.reply(200, b"picture"))
    internet(server.server_port)
    with pytest.raises(FetchUnavailable, match="SSLError"):
        Fetcher(Settings()).fetch("https://pictures.example/x")
    assert server.received == []


def test_a_trusted_host_must_show_a_certificate_too(tls_server: Any) -> None:
    server = tls_server("other.example", lambda request: request.reply(200, b"picture"))
    with pytest.raises(FetchUnavailable, match="SSLError"):
        trusting(server).fetch(f"https://{server.netloc}/")
    assert server.received == []


def test_the_deadline_holds_through_tls(tls_server: Any, internet: Any) -> None:
    server = tls_server("pictures.example", drip_headers)
    internet(server.server_port)
    with pytest.raises(FetchUnavailable, match="took more than"):
        Fetcher(Settings(fetch_timeout_s=0.7)).fetch("https://pictures.example/x")


# --- S3 ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def bucket(s3_endpoint: str, aws: None, request: pytest.FixtureRequest) -> Any:
    bucket = boto3.session.Session().resource("s3", endpoint_url=s3_endpoint).Bucket("pictures")
    bucket.create()
    yield bucket
    bucket.objects.delete()
    bucket.delete()


def from_s3(endpoint: str, **settings: Any) -> Fetcher:
    return Fetcher(Settings(s3_endpoint_url=endpoint, fetch_s3_buckets=("pictures", "missing"), **settings))


@pytest.mark.parametrize("key", ["a/b.png", "ümlaut and space.png", "odd?x=1&y#z%20.png"])
def test_an_object_is_fetched_by_its_literal_key(key: str, bucket: Any, s3_endpoint: str) -> None:
    bucket.put_object(Key=key, Body=b"picture")
    assert from_s3(s3_endpoint).fetch(f"s3://pictures/{key}") == b"picture"


def test_a_key_that_is_not_there_is_refused(bucket: Any, s3_endpoint: str) -> None:
    with pytest.raises(FetchRefused, match="404 NoSuchKey") as failure:
        from_s3(s3_endpoint).fetch("s3://pictures/SECRET")
    assert "SECRET" not in str(failure.value)


def test_a_bucket_that_is_not_there_is_refused(bucket: Any, s3_endpoint: str) -> None:
    with pytest.raises(FetchRefused, match="NoSuchBucket"):
        from_s3(s3_endpoint).fetch("s3://missing/key")


@pytest.mark.parametrize("url", ["s3://others/key", "s3://", "s3:///key", "s3://pictures", "s3://pictures/"])
def test_a_bucket_that_is_not_allowed_or_no_key_is_forbidden(url: str, bucket: Any, s3_endpoint: str) -> None:
    with pytest.raises(FetchForbidden):
        from_s3(s3_endpoint).fetch(url)


def test_an_object_over_the_limit_is_too_large(bucket: Any, s3_endpoint: str) -> None:
    bucket.put_object(Key="big", Body=b"x" * 1001)
    with pytest.raises(ImageTooLarge, match="1001"):
        from_s3(s3_endpoint, fetch_max_bytes=1000).fetch("s3://pictures/big")


@pytest.mark.parametrize(("status", "failure"), [(500, FetchUnavailable), (503, FetchUnavailable), (403, FetchRefused)])
def test_what_s3_answers_decides_whether_to_try_again(status: int, failure: Any, serve: Any, aws: None) -> None:
    server = serve(lambda request: request.reply(status))
    with pytest.raises(failure, match=str(status)):
        from_s3(server.url).fetch("s3://pictures/key")
    assert len(server.received) == 1


def test_an_object_that_breaks_off_may_be_tried_again(serve: Any, aws: None) -> None:
    server = serve(lambda request: request.reply(200, b"half", content_length="8"))
    with pytest.raises(FetchUnavailable):
        from_s3(server.url).fetch("s3://pictures/key")


@pytest.mark.parametrize("answer", [drip_body, lambda request: request.server.over.wait(60)])
def test_an_s3_service_that_hangs_is_given_up(answer: Any, serve: Any, aws: None) -> None:
    server = serve(answer)
    with pytest.raises(FetchUnavailable):
        from_s3(server.url, fetch_timeout_s=0.5).fetch("s3://pictures/key")


def test_no_s3_service_may_be_tried_again(tripwire: Tripwire, aws: None) -> None:
    tripwire.socket.close()
    with pytest.raises(FetchUnavailable, match="EndpointConnectionError"):
        from_s3(f"http://127.0.0.1:{tripwire.port}").fetch("s3://pictures/key")
