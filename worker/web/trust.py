"""An allow-list of endpoints: what a stranger's URL may lead to besides public addresses on the usual ports."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self

from m3agiqa.errors import ConfigError
from m3agiqa.quoting import quoted
from worker.web.addresses import Network, NotPublic, bare, checked
from worker.web.endpoints import endpoint_of

_HOST = re.compile(r"(?P<host>[^\s:/@\[\]]+|\[[0-9a-fA-F:.]+\]):\d{1,5}")
_NETWORK = re.compile(r"\[?(?P<network>[0-9a-fA-F:.]+/\d{1,3})\]?:(?P<port>\d{1,5})")


@dataclass(frozen=True)
class Trust:
    """What an allow-list names: endpoints, all hosts below a domain, and networks, each with a port."""

    endpoints: frozenset[str] = frozenset()
    #: Ends of endpoints, such as `.svc.internal:8080`.
    suffixes: tuple[str, ...] = ()
    networks: dict[int, tuple[Network, ...]] = field(default_factory=dict)

    @classmethod
    def from_setting(cls, setting: str, entries: Iterable[str]) -> Self:
        """
        Raises:
            ConfigError: an entry is not `host:port`, `.domain:port` or `network/bits:port`.
        """
        endpoints: set[str] = set()
        suffixes: set[str] = set()
        networks: dict[int, tuple[Network, ...]] = {}
        for entry in entries:
            if (found := _NETWORK.fullmatch(entry)) is not None:
                port = _port(setting, entry, found["port"])
                networks[port] = (*networks.get(port, ()), _network(setting, entry, found["network"]))
            elif entry.startswith("."):
                suffixes.add(_suffix(setting, entry))
            else:
                endpoints.add(_endpoint(setting, entry, entry))
        return cls(frozenset(endpoints), tuple(sorted(suffixes)), networks)

    def names(self, host: str, port: int) -> bool:
        """Whether the list has this host, spelt as by `endpoint_of`, whatever its address."""
        endpoint = f"{host}:{port}"
        return endpoint in self.endpoints or endpoint.endswith(self.suffixes)

    def admits(self, port: int) -> bool:
        """Whether some address may be connected to on this port."""
        return port in self.networks

    def address(self, address: str, port: int, usual: Collection[int]) -> str:
        """The address to connect to, if it lies in a network of the list, or is public and its port `usual`.

        Raises:
            NotPublic: it is neither.
        """
        if any(bare(address) in network for network in self.networks.get(port, ())):
            return address
        if port not in usual:
            raise NotPublic
        return checked(address)


def _endpoint(setting: str, entry: str, spelt: str) -> str:
    with suppress(ValueError):
        if _HOST.fullmatch(spelt):
            return endpoint_of(f"http://{spelt}")
    raise _wrong(setting, entry)


def _suffix(setting: str, entry: str) -> str:
    suffix = _endpoint(setting, entry, f"x{entry}").removeprefix("x")
    # No domain ends in a number, but addresses do.
    if not suffix.startswith(".") or re.search(r"\.[0-9]+:", suffix):
        raise _wrong(setting, entry)
    return suffix


def _network(setting: str, entry: str, network: str) -> Network:
    with suppress(ValueError):
        return ipaddress.ip_network(network)
    raise ConfigError(f"{setting}: {quoted(entry)!r} names no network: see that no bit is set behind its length")


def _port(setting: str, entry: str, text: str) -> int:
    if not 0 < (port := int(text)) < 65_536:
        raise _wrong(setting, entry)
    return port


def _wrong(setting: str, entry: str) -> ConfigError:
    return ConfigError(
        f"{setting}: {quoted(entry)!r} is not host:port, .domain:port or network/bits:port, such as "
        "images.internal:8080, .svc.internal:8080 or 10.0.0.0/8:8080"
    )
