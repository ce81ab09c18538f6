"""Sends requests to URLs that strangers gave.

It resolves a name once, checks the addresses (`worker.web.addresses`) and connects to no others, so that a second DNS
answer changes nothing. It also checks ports and credentials, keeps a deadline over the whole exchange
(`worker.web.connections`), and gives a server no more than its share of the worker's threads (`worker.shares`). It
never follows a redirect: each hop is a new `open`, checked anew.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3
from requests_hardened import Config, HTTPSession

from m3agiqa.errors import M3AGIQAError
from worker.shares import Shares
from worker.web.addresses import NotPublic
from worker.web.connections import CheckedAdapter, Exchange, going_on, tls_context
from worker.web.endpoints import DEFAULT_PORTS, host_and_port
from worker.web.sites import site_of
from worker.web.trust import Trust

#: One connection for each exchange, and no compression: a few bytes could unpack to very many.
_HEADERS = {"Accept-Encoding": "identity", "Connection": "close"}


class Transport:
    """Sends one request at a time to a checked address. Safe to share among threads; keeps no connections or cookies.

    Messages name `timeout_s`; the deadline itself comes with each `open`. Status and headers of an answer must be there
    within `first_byte_s` seconds. `forbidden` and `unavailable` are the failures to raise: the first is permanent, the
    second retryable. `shares` says how many threads a server may have; without it, any number.
    What is `trusted` may have private addresses and unusual ports.
    """

    def __init__(
        self,
        *,
        timeout_s: float,
        trusted: Trust,
        ports: Collection[int] = tuple(DEFAULT_PORTS.values()),
        forbidden: type[M3AGIQAError],
        unavailable: type[M3AGIQAError],
        user_agent: str,
        shares: Shares | None = None,
        first_byte_s: float = math.inf,
    ) -> None:
        self._timeout_s = timeout_s
        self._trusted = trusted
        self._ports = frozenset(ports)
        self._forbidden = forbidden
        self._unavailable = unavailable
        self._shares = shares or Shares()
        self._first_byte_s = first_byte_s
        self._config = Config(
            ip_filter_enable=True,
            ip_filter_allow_loopback_ips=False,
            never_redirect=True,
            default_timeout=(timeout_s, timeout_s),
            user_agent_override=user_agent,
        )
        self._tls = tls_context()

    @contextmanager
    def open(
        self,
        method: str,
        url: str,
        *,
        until: float,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Iterator[requests.Response]:
        """Send one request. The body of the response is still unread, and as the server sent it: nothing unpacks it.

        `until` is in seconds of `time.monotonic`, and holds for reading the body inside the `with` too. A name that
        does not resolve is retryable: an outage of the resolver looks like a name that never existed.

        Raises:
            forbidden: scheme, port, address or form of the URL are not accepted.
            unavailable: no connection, no answer in time, or not all of it before `until`.
            Busy: the server has all threads it may have; the request must come again.
        """
        name = "the URL"
        exchange: Exchange | None = None
        try:
            request = requests.Request(method, url, data=body, headers={**_HEADERS, **(headers or {})})
            with _Session(self._config) as session:
                session.trust_env = False
                prepared = session.prepare_request(request)
                # The adapter takes host and port from this same string by the same function.
                name, port, checked = self._check(str(prepared.url))
                for scheme in DEFAULT_PORTS:
                    session.mount(f"{scheme}://", CheckedAdapter(self._tls))
                with self._shares.take(site_of(name, port)) as share:
                    exchange = Exchange(share, min(until, time.monotonic() + self._first_byte_s), checked)
                    with going_on(exchange), session.send(prepared, stream=True) as response:
                        exchange.until = until
                        yield response
        except NotPublic:
            raise self._forbidden(f"{name} is not a public address, and not on the allow-list") from None
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidHeader, ValueError):
            raise self._forbidden(f"{name} cannot be requested: malformed") from None
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            if time.monotonic() >= until:
                raise self._unavailable(f"{name} took more than {self._timeout_s:g} s") from None
            if exchange is not None and time.monotonic() >= exchange.until:
                raise self._unavailable(f"{name} did not begin to answer within {self._first_byte_s:g} s") from None
            raise self._unavailable(f"{name} cannot be reached, or broke off ({type(error).__name__})") from None

    def _check(self, url: str) -> tuple[str, int, Callable[[str], str]]:
        """The host as messages may show it, its port, and what tells an address that it may have."""
        parts = urlsplit(url)
        if parts.scheme not in DEFAULT_PORTS:
            raise self._forbidden("only http and https URLs are accepted")
        if "@" in parts.netloc or "%" in parts.netloc:
            raise self._forbidden("a URL with a user name, a password or a network zone is not accepted")
        host, port = host_and_port(parts)
        if self._trusted.names(host, port):
            return host, port, str
        if port not in self._ports and not self._trusted.admits(port):
            raise self._forbidden(f"{host}: port {port} is not allowed, and {host}:{port} not on the allow-list")
        return host, port, partial(self._trusted.address, port=port, usual=self._ports)


class _Session(HTTPSession):  # type: ignore[misc]
    def resolve_redirects(self, *args: Any, **kwargs: Any) -> Iterator[requests.PreparedRequest]:
        # requests, though told not to follow, reads the whole body of a redirect to find the next hop.
        return iter(())
