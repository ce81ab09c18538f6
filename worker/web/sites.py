"""Tells which servers belong together: those of one site, and those at one endpoint."""

from __future__ import annotations

import ipaddress

import tldextract

from worker.web.addresses import bare

#: The list of public suffixes in the wheel, with the domains under which companies give out names; no download.
_suffixes = tldextract.TLDExtract(cache_dir=None, suffix_list_urls=(), include_psl_private_domains=True)


def site_of(host: str, port: int) -> str:
    """The site of a host: its registrable domain; of an address, its endpoint; of any other name, host and port."""
    try:
        return endpoint_at(host.strip("[]"), port)
    except ValueError:
        pass
    return _suffixes.extract_str(host).top_domain_under_public_suffix or f"{host}:{port}"


def endpoint_at(address: str, port: int) -> str:
    """The endpoint at an IP address: with IPv6, all addresses of its /64.

    Raises:
        ValueError: this is no IP address.
    """
    ip = bare(address)
    # The owner of one address of a /64 owns all of them.
    network = ipaddress.ip_network((ip, 64 if ip.version == 6 else 32), strict=False)
    return f"{network}:{port}"
