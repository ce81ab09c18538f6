"""One spelling for each endpoint that a URL or a setting can name."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.web.endpoints import endpoint_of, host_named


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("https://tenant.example", "tenant.example:443"),
        ("http://tenant.example/a?b#c", "tenant.example:80"),
        ("HTTPS://Tenant.EXAMPLE:443/", "tenant.example:443"),
        ("https://tenant.example./", "tenant.example:443"),
        ("https://tenant.example.:8443/", "tenant.example:8443"),
        ("http://tenant.example:443/", "tenant.example:443"),
        ("https://bücher.example/", "xn--bcher-kva.example:443"),
        ("https://BÜCHER.Example:443", "xn--bcher-kva.example:443"),
        ("https://XN--bcher-KVA.example./", "xn--bcher-kva.example:443"),
        ("https://user:password@tenant.example/", "tenant.example:443"),
        ("http://under_score:8000", "under_score:8000"),
        ("http://127.0.0.1:8000", "127.0.0.1:8000"),
        ("http://[::1]/", "[::1]:80"),
        ("http://[0:0:0:0:0:0:0:1]:80/", "[::1]:80"),
        ("http://[2001:DB8::A]/", "[2001:db8::a]:80"),
    ],
)
def test_one_spelling(url: str, endpoint: str) -> None:
    assert endpoint_of(url) == endpoint


@pytest.mark.parametrize(
    "url",
    [
        "",
        "tenant.example",
        "https://",
        "https:///path",
        "https://.",
        "https://.example/",
        "https://a..b/",
        "https://tenant.example../",
        "https://*.example/",
        "https://tenant.example:0/",
        "https://tenant.example:65536/",
        "https://tenant.example:port/",
        "https://127.0.0.1./",
        "https://[::1/",
        "https://[fe80::1%25eth0]/",
        "https://ⓛocalhost/",
        "https://" + "a" * 64 + ".example/",
        "https://" + "a." * 130 + "example/",
        "ftp://tenant.example/",
        "s3://bucket/key",
        "file:///etc/passwd",
    ],
)
def test_what_names_no_host(url: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        endpoint_of(url)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(["", "http://", "https://"]), st.text(st.characters(), max_size=30))
def test_any_text_is_an_endpoint_or_a_value_error(scheme: str, text: str) -> None:
    for find in (endpoint_of, host_named):
        try:
            found = find(scheme + text)
        except ValueError:
            continue
        assert found.isascii()
        assert found == found.lower()


@pytest.mark.parametrize(
    ("entry", "host"),
    [
        ("Tenant.example", "tenant.example"),
        ("tenant.example.", "tenant.example"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("tenant.example:443", "tenant.example:443"),
        ("tenant.example:080", "tenant.example:80"),
        ("https://tenant.example", "tenant.example:443"),
        ("https://tenant.example/", "tenant.example:443"),
        ("http://tenant.example", "tenant.example:80"),
        ("127.0.0.1", "127.0.0.1"),
        ("[::1]", "[::1]"),
        ("::1", "[::1]"),
        ("[::1]:443", "[::1]:443"),
    ],
)
def test_a_setting_names_a_host_or_one_of_its_ports(entry: str, host: str) -> None:
    assert host_named(entry) == host


@pytest.mark.parametrize(
    "entry",
    [
        "",
        " ",
        "*.example.com",
        "*",
        "a b",
        "tenant.example/path",
        "https://tenant.example/hooks",
        "https://tenant.example?b",
        "user@tenant.example",
        "tenant.example:port",
        "tenant.example,other.example",
        "ftp://tenant.example",
        "https://",
    ],
)
def test_a_setting_that_names_no_host(entry: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        host_named(entry)
