"""Tells which addresses a stranger's URL may lead to."""

from __future__ import annotations

import ipaddress
import socket
from itertools import zip_longest

from requests_hardened.ip_filter import InvalidIPAddress, get_ip_address
from urllib3.util import connection

#: Prefixes of NAT64, by which networks with IPv6 alone reach IPv4: the last four bytes are the IPv4 address. The second
#: one is the first /96 of 64:ff9b:1::/48, for use inside a network; the rest of that /48 has the four bytes elsewhere,
#: so it counts as not public.
NAT64 = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("64:ff9b:1::/96"))

_NOT_PUBLIC = (
    ipaddress.ip_network("168.63.129.16/32"),  # Azure's metadata server, on an address that looks public
    ipaddress.ip_network("fec0::/10"),  # site-local: deprecated, still routed where it is in use
)
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

#: Addresses of one name that are tried at most.
_MOST_ADDRESSES = 4


class NotPublic(Exception):
    """An address that strangers may not reach. It is no OSError, which urllib3 would take for a broken connection."""


def bare(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The address itself: the IPv4 one inside an IPv6 address that is mapped or for NAT64.

    Raises:
        ValueError: it is not an address.
    """
    # A link-local address may name a network interface behind %.
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        return ip.ipv4_mapped or (ipaddress.IPv4Address(ip.packed[-4:]) if _by_nat64(ip) else ip)
    return ip


def checked(address: str) -> str:
    """The address to connect to, if it is public.

    Raises:
        NotPublic: strangers may not reach it, even if this machine can.
    """
    ip = bare(address)
    try:
        get_ip_address(str(ip), 0, allow_loopback=False)
    except InvalidIPAddress:
        raise NotPublic from None
    if not ip.is_global or ip.is_reserved or any(ip in network for network in _NOT_PUBLIC):
        raise NotPublic
    return address if _by_nat64(ipaddress.ip_address(address)) else str(ip)


def _by_nat64(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    return any(ip in network for network in NAT64)


def lookup(host: str, port: int) -> list[str]:
    """Addresses of a name, IPv4 and IPv6 alternating, the system's first choice first."""
    found = socket.getaddrinfo(host, port, family=connection.allowed_gai_family(), type=socket.SOCK_STREAM)
    ours = [str(address[0]) for family, *_, address in found if family == found[0][0]]
    others = [str(address[0]) for family, *_, address in found if family != found[0][0]]
    in_turn = (address for pair in zip_longest(ours, others) for address in pair if address is not None)
    return list(dict.fromkeys(in_turn))[:_MOST_ADDRESSES]
