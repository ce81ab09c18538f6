"""Sends requests to URLs that strangers gave.

A name is resolved once, its addresses are checked (`worker.web.addresses`), and no others are connected to, so that a
second DNS answer changes nothing. Checked here: ports, trusted hosts, no credentials in URLs, a deadline over the whole
exchange, and the share of the worker's threads that its server may have (`worker.shares`). Redirects are never
followed: each hop is a new `open`, checked anew.
"""

from __future__ import annotations

import ipaddress
import math
import socket
import ssl
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

import certifi
import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests_hardened import Config, HTTPSession
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from m3agiqa.errors import M3AGIQAError
from worker.shares import Share, Shares, endpoint_at, site_of
from worker.web.addresses import NotPublic, checked, lookup
from worker.web.answers import Answer
from worker.web.endpoints import DEFAULT_PORTS, host_and_port

#: One connection an exchange; no compression, as unpacking is where a few bytes become many.
_HEADERS = {"Accept-Encoding": "identity", "Connection": "close"}
#: Seconds until the next address of a name is tried.
_NEXT_ADDRESS_S = 2.0

_Result = TypeVar("_Result")


@dataclass
class _Exchange:
    share: Share
    #: Seconds of `time.monotonic`: until the answer has begun, then until it is complete.
    until: float
    #: Whether its host may have a private address.
    trusted: bool


#: Sockets belong to one thread's one exchange.
_exchange: ContextVar[_Exchange] = ContextVar("exchange")


class Transport:
    """Sends one request at a time to a checked address. Safe to share among threads; keeps no connections or cookies.

    `timeout_s` is named in messages; the deadline itself comes with each `open`. An answer must have begun, with its
    status and headers complete, within `first_byte_s` seconds. `forbidden` and `unavailable` are the failures to raise:
    the first permanent, the second retryable. `shares` says how many threads a server may have; without it, any number.
    Endpoints that are `trusted` may have private addresses and unusual ports.
    """

    def __init__(
        self,
        *,
        timeout_s: float,
        trusted: frozenset[str],
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
        self._tls = _tls_context()

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
        """Send one request; the response's body is not read yet, and is as the server sent it (never decompressed).

        `until` is in seconds of `time.monotonic`; reading the body inside the `with` obeys it too. Failures to resolve
        are retryable like any other: a resolver's outage and a record that is not there yet look the same as a name
        that never existed.

        Raises:
            forbidden: scheme, port, address or form of the URL are not accepted.
            unavailable: no connection, no answer in time, or not all of it before `until`.
            Busy: its server has all threads it may have. Nothing is wrong, but the request must come again.
        """
        name = "the URL"
        exchange: _Exchange | None = None
        try:
            request = requests.Request(method, url, data=body, headers={**_HEADERS, **(headers or {})})
            with _Session(self._config) as session:
                session.trust_env = False
                prepared = session.prepare_request(request)
                # The adapter takes host and port from this very string by the same function.
                name, port, trusted = self._check(str(prepared.url))
                for scheme in DEFAULT_PORTS:
                    session.mount(f"{scheme}://", _Adapter(self._tls))
                with self._shares.take(site_of(name, port)) as share:
                    exchange = _Exchange(share, min(until, time.monotonic() + self._first_byte_s), trusted)
                    with _going_on(exchange), session.send(prepared, stream=True) as response:
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

    def _check(self, url: str) -> tuple[str, int, bool]:
        """The host as messages may show it, its port, and whether it is trusted."""
        parts = urlsplit(url)
        if parts.scheme not in DEFAULT_PORTS:
            raise self._forbidden("only http and https URLs are accepted")
        if "@" in parts.netloc or "%" in parts.netloc:
            raise self._forbidden("a URL with a user name, a password or a network zone is not accepted")
        host, port = host_and_port(parts)
        trusted = f"{host}:{port}" in self._trusted
        if not trusted and port not in self._ports:
            raise self._forbidden(f"{host}: port {port} is not allowed, and {host}:{port} not on the allow-list")
        return host, port, trusted


@contextmanager
def _going_on(exchange: _Exchange) -> Iterator[None]:
    token = _exchange.set(exchange)
    try:
        yield
    finally:
        _exchange.reset(token)


def _seconds_left() -> float:
    left_s = _exchange.get().until - time.monotonic()
    if left_s <= 0:
        raise TimeoutError("the deadline has passed")
    return left_s


def _may_wait_s() -> float:
    """Seconds that may be waited now; who wants to wait longer asks again."""
    return min(_seconds_left(), _exchange.get().share.go_on())


def _in_time(call: Callable[..., _Result], *args: Any) -> _Result:
    """Wait for `call` for as long as the exchange may go on. Looking up a name takes as long as the system's resolver
    likes, and cannot be interrupted: what is late is left to end by itself.
    """
    done: Future[_Result] = Future()

    def run() -> None:
        try:
            done.set_result(call(*args))
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, name="lookup", daemon=True).start()
    try:
        while not wait([done], _may_wait_s()).done:
            pass
    except BaseException:
        done.add_done_callback(_close)
        raise
    return done.result()


def _close(late: Future[Any]) -> None:
    """Nobody takes it any more."""
    if late.exception() is None and isinstance(connected := late.result(), socket.socket):
        connected.close()


def _addresses(host: str, port: int) -> list[str]:
    """The addresses to try for a host, which may be one."""
    try:
        return [str(ipaddress.ip_address(host))]
    except ValueError:
        return _in_time(lookup, host, port)


class _Session(HTTPSession):  # type: ignore[misc]
    def resolve_redirects(self, *args: Any, **kwargs: Any) -> Iterator[requests.PreparedRequest]:
        # Even when told not to follow, requests looks for the next hop and reads all of the redirect's body for it.
        return iter(())


class _Socket(socket.socket):
    """Waits for as long as the exchange may go on. A timeout alone starts anew with each byte a slow server sends."""

    def settimeout(self, value: float | None) -> None:
        super().settimeout(min(_may_wait_s(), value or math.inf))

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        return self._patiently(super().recv_into, *args, **kwargs)

    def sendall(self, data: Any, *_: Any) -> None:
        left = memoryview(data).cast("B")
        while left:
            left = left[self._patiently(super().send, left) :]

    def _patiently(self, wait: Callable[..., _Result], *args: Any, **kwargs: Any) -> _Result:
        while True:
            self.settimeout(None)
            try:
                return wait(*args, **kwargs)
            except TimeoutError:
                """It may go on, or `settimeout` says why not."""


class _TLSSocket(_Socket, ssl.SSLSocket):
    def do_handshake(self, block: bool = False) -> None:
        self._patiently(super().do_handshake, block)


def _tls_context() -> ssl.SSLContext:
    # The system's authorities, so that SSL_CERT_FILE can name a private one; certifi's where an image ships none.
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    context.sslsocket_class = _TLSSocket
    return context


class _Connection(HTTPConnection):
    response_class = Answer

    def _new_conn(self) -> socket.socket:
        name = self._dns_host
        addresses = _addresses(name.strip("[]"), self.port)
        if not _exchange.get().trusted:
            # All of them: a name that leads inside as well as outside means no good.
            addresses = [checked(address) for address in addresses]
        try:
            plain = self._connect(addresses)
        finally:
            # TLS and the Host header go by the name.
            self._dns_host = name
        punctual = _Socket(fileno=plain.detach())
        try:
            punctual.settimeout(None)
        except BaseException:
            punctual.close()
            raise
        return punctual

    def _connect(self, addresses: Sequence[str]) -> socket.socket:
        *others, last = addresses
        for address in others:
            try:
                return self._connect_to(address, min(_seconds_left(), _NEXT_ADDRESS_S))
            except urllib3.exceptions.HTTPError:
                """The next one may be reached."""
        return self._connect_to(last, _seconds_left())

    def _connect_to(self, address: str, timeout_s: float) -> socket.socket:
        _exchange.get().share.meet(endpoint_at(address, self.port))
        self._dns_host, self.timeout = address, timeout_s
        return _in_time(super()._new_conn)


class _TLSConnection(_Connection, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TLSPool(HTTPSConnectionPool):
    ConnectionCls = _TLSConnection


class _Adapter(HTTPAdapter):
    def __init__(self, tls: ssl.SSLContext) -> None:
        self._tls = tls
        super().__init__()

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **pool_kwargs: Any) -> None:
        super().init_poolmanager(connections, maxsize, block, ssl_context=self._tls, **pool_kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _TLSPool}

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        # The context holds the authorities already; requests would read its bundle again for every connection.
        conn.cert_reqs = "CERT_REQUIRED"
