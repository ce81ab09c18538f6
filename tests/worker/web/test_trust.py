"""What an allow-list names, and what it does not."""

from __future__ import annotations

import pytest

from m3agiqa.errors import ConfigError
from worker.web.addresses import NotPublic
from worker.web.trust import Trust

TRUST = Trust.from_setting(
    "SETTING",
    ("Images.Internal:8080", ".svc.INTERNAL:8080", ".bücher.example:443", "10.0.0.0/8:8080", "[fd00::/8]:8080"),
)


@pytest.mark.parametrize(
    ("host", "port", "is_named"),
    [
        ("images.internal", 8080, True),
        ("images.internal", 80, False),
        ("other.images.internal", 8080, False),
        ("a.svc.internal", 8080, True),
        ("a.b.svc.internal", 8080, True),
        ("svc.internal", 8080, False),
        ("evilsvc.internal", 8080, False),
        ("a.svc.internal", 80, False),
        ("a.svc.internal.evil.example", 8080, False),
        ("shop.xn--bcher-kva.example", 443, True),
        ("10.0.0.1", 8080, False),
    ],
)
def test_names_are_trusted_as_they_are_spelt(host: str, port: int, is_named: bool) -> None:
    assert TRUST.names(host, port) is is_named


@pytest.mark.parametrize("address", ["10.1.2.3", "fd00::1", "::ffff:10.1.2.3"])
def test_an_address_in_a_network_of_the_list_may_be_connected_to_on_its_port(address: str) -> None:
    assert TRUST.address(address, 8080, usual=(80,)) == address
    with pytest.raises(NotPublic):
        TRUST.address(address, 80, usual=(80,))


@pytest.mark.parametrize(
    ("address", "port"), [("192.168.0.1", 8080), ("127.0.0.1", 80), ("1.1.1.1", 8080), ("::1", 80)]
)
def test_any_other_address_is_public_and_its_port_usual(address: str, port: int) -> None:
    with pytest.raises(NotPublic):
        TRUST.address(address, port, usual=(80,))
    assert TRUST.address("1.1.1.1", 80, usual=(80,)) == "1.1.1.1"


@pytest.mark.parametrize(
    "entry",
    [
        "",
        ".",
        ".:80",
        ".internal",
        "..internal:80",
        ".0.0.1:80",
        ".1:80",
        "*.internal:80",
        "10.0.0.0/8",
        "10.0.0.1/8:80",
        "10.0.0.0/33:80",
        "10.0.0.0/8:0",
        "10.0.0.0/8:65536",
        "10.0.0/8:80",
        "fd00::/8",
        "internal/8:80",
        "https://internal:80",
    ],
)
def test_an_entry_that_could_never_match_is_an_error(entry: str) -> None:
    with pytest.raises(ConfigError, match="SETTING: "):
        Trust.from_setting("SETTING", (entry,))
