"""How `host:port` is spelt: one way for whatever leads to the same endpoint."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import TypeVar
from urllib.parse import SplitResult, urlsplit

import requests

from m3agiqa.errors import ConfigError
from m3agiqa.quoting import quoted

#: Ports by scheme. Any other port must stand in the allow-list.
DEFAULT_PORTS = {"http": 80, "https": 443}

#: No registered name has an underscore, but many names of containers do.
_HOST_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")
_IPV4 = re.compile(r"\d+(\.\d+){3}")

_Value = TypeVar("_Value")


def endpoint_of(url: str) -> str:
    """`host:port` of an http or https URL; URLs that lead to the same endpoint give the same text.

    The host is in lower case: a name in ASCII (IDNA, as requests connects to it) without a dot at its end, or an IPv6
    address in its short form and in brackets. The port is there even if it is the scheme's own.

    Raises:
        ValueError: another scheme, or nothing that could be a host. Its message may hold the URL.
    """
    if urlsplit(url).port == 0:
        # requests would drop it.
        raise ValueError("no port has this number")
    prepared = requests.PreparedRequest()
    prepared.prepare_url(url, None)
    host, port = host_and_port(urlsplit(str(prepared.url)))
    return f"{host}:{port}"


def host_and_port(parts: SplitResult) -> tuple[str, int]:
    """Host and port of a URL that requests has prepared, spelt as by `endpoint_of`.

    Raises:
        ValueError: as `endpoint_of` raises it.
    """
    port = DEFAULT_PORTS.get(parts.scheme) if parts.port is None else parts.port
    host = parts.hostname or ""
    if parts.scheme not in DEFAULT_PORTS or port is None or "%" in host:
        raise ValueError("no http or https URL of a host")
    with suppress(ValueError):
        address = ipaddress.ip_address(host)
        return (f"[{address}]" if address.version == 6 else str(address)), port
    name = host.removesuffix(".")
    if not _HOST_NAME.fullmatch(name) or (name != host and _IPV4.fullmatch(name)):
        raise ValueError("not a name of a host")
    return name, port


def by_host(setting: str, entries: Mapping[str, _Value]) -> dict[str, _Value]:
    """The values that a setting has for single hosts, by what `host_named` makes of their names.

    Raises:
        ConfigError: something cannot be a host, or two spellings name the same one.
    """
    found: dict[str, _Value] = {}
    for name, value in entries.items():
        try:
            host = host_named(name)
        except ValueError:
            raise ConfigError(f"{setting}: {quoted(name)!r} is not host, host:port or https://host") from None
        if host in found:
            raise ConfigError(f"{setting}: {host} is there twice, in two spellings")
        found[host] = value
    return found


def host_named(entry: str) -> str:
    """What a setting means by `host:port` or `https://host` (port 443), which are endpoints, or by `host`, which has no
    port in the result and stands for any; spelt as by `endpoint_of`.

    Raises:
        ValueError: nothing of these.
    """
    with suppress(ValueError):
        entry = f"[{ipaddress.IPv6Address(entry)}]"
    url = entry if "://" in entry else f"https://{entry}"
    endpoint, parts = endpoint_of(url), urlsplit(url)
    if "@" in parts.netloc or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError("more than a host and a port")
    return endpoint if url == entry or parts.port is not None else host_of_endpoint(endpoint)


def host_of_endpoint(endpoint: str) -> str:
    return endpoint.rpartition(":")[0]
