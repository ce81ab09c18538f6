"""Which servers belong together: those of one site, and those at one endpoint."""

from __future__ import annotations

import ipaddress

import tldextract

from worker.web.addresses import bare

#: The list of the wheel, with domains under which private companies give out names: nothing is downloaded or cached.
_suffixes = tldextract.TLDExtract(cache_dir=None, suffix_list_urls=(), include_psl_private_domains=True)


def site_of(host: str, port: int) -> str:
    """The site of a host: its registrable domain, or, where it has none, host and port, or its endpoint."""
    try:
        return endpoint_at(host.strip("[]"), port)
    except ValueError:
        pass
    return _suffixes.extract_str(host).top_domain_under_public_suffix or f"{host}:{port}"


def endpoint_at(address: str, port: int) -> str:
    """The endpoint at an IP address.

    Raises:
        ValueError: it is not an address.
    """
    ip = bare(address)
    # Who has one address of a /64 has them all.
    network = ipaddress.ip_network((ip, 64 if ip.version == 6 else 32), strict=False)
    return f"{network}:{port}"
