"""Which addresses strangers may lead to."""

from __future__ import annotations

import ipaddress
import socket
from itertools import zip_longest

from requests_hardened.ip_filter import InvalidIPAddress, get_ip_address
from urllib3.util import connection

#: Where there is no other way out than through NAT64, every IPv4 address takes the last four bytes of one of these: of
#: the well-known prefix, or of the first /96 of 64:ff9b:1::/48, which networks use among themselves. In the others of
#: that /48 the four bytes lie elsewhere, depending on the network: they are not public.
NAT64 = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("64:ff9b:1::/96"))

_NOT_PUBLIC = (
    ipaddress.ip_network("168.63.129.16/32"),  # Azure's metadata server, on an address that looks public
    ipaddress.ip_network("fec0::/10"),  # site-local: deprecated, still routed where it is in use
)
#: Addresses of a name that are tried.
_MOST_ADDRESSES = 4


class NotPublic(Exception):
    """No OSError, which urllib3 would take for a broken connection."""


def bare(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The address that is meant: an IPv4 one if it only has the form of an IPv6 one, mapped or for NAT64.

    Raises:
        ValueError: it is not an address.
    """
    # Without the network interface that a link-local one may name.
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        return ip.ipv4_mapped or (ipaddress.IPv4Address(ip.packed[-4:]) if _by_nat64(ip) else ip)
    return ip


def checked(address: str) -> str:
    """The address to connect to.

    Raises:
        NotPublic: this machine may be able to reach it, but strangers are not to.
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
    """Addresses of a name, two families in turn, the system's choice first."""
    found = socket.getaddrinfo(host, port, family=connection.allowed_gai_family(), type=socket.SOCK_STREAM)
    ours = [str(address[0]) for family, *_, address in found if family == found[0][0]]
    others = [str(address[0]) for family, *_, address in found if family != found[0][0]]
    in_turn = (address for pair in zip_longest(ours, others) for address in pair if address is not None)
    return list(dict.fromkeys(in_turn))[:_MOST_ADDRESSES]
