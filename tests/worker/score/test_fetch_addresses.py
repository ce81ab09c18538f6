from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest
from urllib3.util import connection

from m3agiqa.errors import ConfigError, FetchForbidden, FetchUnavailable
from tests.support import PATIENCE_S
from tests.worker.conftest import PUBLIC, Tripwire, resolver, trusting
from worker.score.fetch import Fetcher
from worker.settings import Settings

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
    "http://[64:ff9b:1::a9fe:a9fe]:{port}/",
    "http://[64:ff9b:1:a00:0:100::]:{port}/",
    "http://[64:ff9b:1:1::5db8:d70e]:{port}/",
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
    "http://images.example@127.0.0.1:{port}/",
    "http://127.0.0.1:{port}@images.example/",
    "http://127.0.0.1:{port}\\@images.example/",
    "http://127.0.0.1:{port}#@images.example/",
    "http://127.0.0.1:{port}?@images.example/",
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


SIX = "2606:2800:21f:cb07:6820:80da:af6b:8b2c"


@pytest.mark.parametrize(
    ("addresses", "tried"),
    [
        ([SIX, PUBLIC], [SIX, PUBLIC]),
        (["93.184.215.13", PUBLIC], ["93.184.215.13", PUBLIC]),
        # a large site's many addresses of one kind do not keep those of the other from being tried, nor are all
        (
            [f"2606:2800::{number}" for number in range(1, 9)] + [PUBLIC],
            ["2606:2800::1", PUBLIC, "2606:2800::2", "2606:2800::3"],
        ),
        # by way of NAT64
        (["64:ff9b::5db8:d70e"], ["64:ff9b::5db8:d70e"]),
        (["64:ff9b:1::5db8:d70e"], ["64:ff9b:1::5db8:d70e"]),
        (["::ffff:93.184.215.14"], [PUBLIC]),
    ],
)
def test_where_one_address_cannot_be_reached_the_next_is_tried(
    addresses: list[str], tried: list[str], connects: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolver_of_many(monkeypatch, "many.example", addresses)
    with pytest.raises(FetchUnavailable):
        Fetcher(Settings()).fetch("http://many.example/")
    assert [address[0] for address in connects.tried] == tried


def test_an_address_that_does_not_answer_costs_a_moment_and_no_image(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a name with two addresses, whose first one swallows what is sent there
    server = serve(lambda request: request.reply(200, b"image"))
    resolver_of_many(monkeypatch, "dual.example", [SIX, PUBLIC])
    real, tried = connection.create_connection, []

    def create_connection(address: tuple[str, int], timeout: float, **options: Any) -> socket.socket:
        tried.append(address[0])
        if address[0] == SIX:
            threading.Event().wait(timeout)
            raise TimeoutError
        return real(("127.0.0.1", server.server_port), timeout, **options)

    monkeypatch.setattr(connection, "create_connection", create_connection)
    monkeypatch.setattr("worker.web.connections._NEXT_ADDRESS_S", 0.05)
    # When an image is fetched from it, then the other one gives it
    assert Fetcher(Settings(fetch_timeout_s=PATIENCE_S)).fetch("http://dual.example/") == b"image"
    assert tried == [SIX, PUBLIC]


@pytest.mark.parametrize("private", ["10.0.0.1", "::1", "fd00:ec2::254", "64:ff9b::a00:1", "64:ff9b:1::a00:1"])
@pytest.mark.parametrize("first", [True, False])
def test_a_name_that_leads_inside_as_well_is_forbidden_before_any_connection(
    private: str, first: bool, connects: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolver_of_many(monkeypatch, "split.example", [private, PUBLIC] if first else [PUBLIC, private])
    with pytest.raises(FetchForbidden):
        Fetcher(Settings()).fetch("http://split.example/")
    assert connects.tried == []


def resolver_of_many(monkeypatch: pytest.MonkeyPatch, name: str, addresses: list[str]) -> None:
    """Let a name have several addresses at once."""
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        hosts = addresses if host == name else [host]
        return [found for one in hosts for found in real(one, *args, **kwargs)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.mark.parametrize("host", ["localhost", "127.1", "[::ffff:127.0.0.1]", "127.0.0.1."])
def test_another_spelling_of_an_allowed_host_is_not_allowed(host: str, serve: Any, connects: Any) -> None:
    server = serve(lambda request: request.reply(200, b"inside"))
    with pytest.raises(FetchForbidden):
        trusting(server).fetch(f"http://{host}:{server.server_port}/")
    assert server.received == []


def test_a_name_is_allowed_in_whatever_spelling(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve(lambda request: request.reply(200, b"inside"))
    names = ("xn--bcher-kva.internal", "xn--bcher-kva.internal.")
    resolver(monkeypatch, {name: ["127.0.0.1"] for name in names})
    for entry in ("bücher.internal", "BÜCHER.Internal", "xn--bcher-kva.internal."):
        fetcher = Fetcher(Settings(fetch_allow_hosts=(f"{entry}:{server.server_port}",)))
        for host in ("bücher.internal", "Bücher.INTERNAL", "xn--bcher-kva.internal", "xn--bcher-kva.internal."):
            assert fetcher.fetch(f"http://{host}:{server.server_port}/") == b"inside"


def test_every_host_below_a_domain_and_every_address_of_a_network_may_be_allowed(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(lambda request: request.reply(200, b"inside"))
    port = server.server_port
    resolver(monkeypatch, {name: ["127.0.0.1"] for name in ("a.svc.internal", "evil.example")})
    below = Fetcher(Settings(fetch_allow_hosts=(f".svc.internal:{port}",)))
    within = Fetcher(Settings(fetch_allow_hosts=(f"127.0.0.0/30:{port}",)))
    # a domain is known by its name, a network by the address that a name leads to
    assert below.fetch(f"http://a.svc.internal:{port}/") == b"inside"
    assert within.fetch(f"http://127.0.0.1:{port}/") == b"inside"
    assert within.fetch(f"http://evil.example:{port}/") == b"inside"
    before = len(server.received)
    with pytest.raises(FetchForbidden):
        below.fetch(f"http://evil.example:{port}/")
    with pytest.raises(FetchForbidden):
        below.fetch(f"http://127.0.0.1:{port}/")
    with pytest.raises(FetchForbidden):
        within.fetch(f"http://127.0.0.5:{port}/")
    assert len(server.received) == before


def test_a_name_with_an_address_outside_the_network_is_not_allowed(
    serve: Any, connects: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(lambda request: request.reply(200, b"inside"))
    resolver_of_many(monkeypatch, "mixed.example", ["127.0.0.1", "127.0.0.9"])
    fetcher = Fetcher(Settings(fetch_allow_hosts=(f"127.0.0.0/30:{server.server_port}",)))
    with pytest.raises(FetchForbidden):
        fetcher.fetch(f"http://mixed.example:{server.server_port}/")
    assert connects.tried == []


def test_an_allowed_host_is_allowed_on_its_port_alone(serve: Any, connects: Any) -> None:
    server, other = serve(lambda request: request.reply()), serve(lambda request: request.reply())
    with pytest.raises(FetchForbidden):
        trusting(server, fetch_ports=(other.server_port,)).fetch(f"{other.url}/")
    assert other.received == []


@pytest.mark.parametrize(
    "entry", ["localhost", "http://localhost:80", "localhost:http", "a b:80", ":80", "u@h:80", "h:99999"]
)
def test_an_allow_list_entry_that_could_never_match_is_an_error(entry: str) -> None:
    with pytest.raises(ConfigError, match="host:port"):
        Fetcher(Settings(fetch_allow_hosts=(entry,)))


def test_a_name_that_does_not_resolve_may_be_tried_again() -> None:
    with pytest.raises(FetchUnavailable, match=r"nowhere\.invalid"):
        Fetcher(Settings()).fetch("http://nowhere.invalid/secret?token=1")


def test_a_public_server_that_redirects_inside_is_not_followed(
    serve: Any, internet: Callable[[int], None], tripwire: Tripwire
) -> None:
    target = f"http://127.0.0.1:{tripwire.port}/"
    server = serve(lambda request: request.reply(302, location=target))
    internet(server.server_port)
    with pytest.raises(FetchForbidden):
        Fetcher(Settings(fetch_ports=(80, tripwire.port))).fetch("http://images.example/")
    assert len(server.received) == 1
    assert not tripwire.touched()
