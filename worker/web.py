"""The one way out to the web, for addresses that strangers gave.

A name is resolved once, its addresses are checked by the filter of `requests-hardened`, and no others are connected to,
so that a second DNS answer changes nothing. Added here: ports, trusted hosts, no credentials in URLs, a few ranges that
the filter lets pass, a deadline over the whole exchange, and the share of the worker's threads that its server may have
(`worker.shares`). Redirects are never followed: each hop is a new `open`, checked anew.
"""

from __future__ import annotations

import ipaddress
import math
import re
import socket
import ssl
import string
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from http.client import HTTPResponse
from itertools import zip_longest
from typing import Any, TypeVar
from urllib.parse import SplitResult, quote, urlsplit

import certifi
import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests_hardened import Config, HTTPSession
from requests_hardened.ip_filter import InvalidIPAddress, get_ip_address
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.util import connection

from m3agiqa import __version__
from m3agiqa.errors import ConfigError, M3AGIQAError
from m3agiqa.quoting import quoted
from worker.shares import NAT64, Share, Shares, bare, endpoint_at, site_of

USER_AGENT = f"m3agiqa/{__version__}"
#: Anything else needs the allow-list.
DEFAULT_PORTS = {"http": 80, "https": 443}
#: Statuses that may be gone with the next try; every 5xx is one as well.
TEMPORARY_STATUSES = frozenset({408, 425, 429})

#: One connection an exchange; no compression, as unpacking is where a few bytes become many.
_HEADERS = {"Accept-Encoding": "identity", "Connection": "close"}

_NOT_PUBLIC = (
    ipaddress.ip_network("168.63.129.16/32"),  # Azure's metadata server, on an address that looks public
    ipaddress.ip_network("fec0::/10"),  # site-local: deprecated, still routed where it is in use
)
#: Addresses of a name that are tried, and seconds until the next one is.
_MOST_ADDRESSES, _NEXT_ADDRESS_S = 4, 2.0
_HOST_AND_PORT = re.compile(r"([^\s:/@\[\]]+|\[[0-9a-fA-F:.]+\]):\d{1,5}")
#: Underscores are in no registered name, but in many of containers.
_HOST_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")
_IPV4 = re.compile(r"\d+(\.\d+){3}")

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


def is_temporary(status: int) -> bool:
    return status in TEMPORARY_STATUSES or status >= 500


def host_of(response: requests.Response) -> str:
    """The answering host, as messages may show it."""
    return urlsplit(response.url).hostname or ""


def location_of(response: requests.Response) -> str:
    """Where a redirect leads, possibly relative to its own URL."""
    location = response.headers["location"]
    # Servers send UTF-8 though headers are Latin-1, which is what http.client decodes them by.
    raw = location.encode("latin-1")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return quote(raw, safe=string.punctuation)


def endpoint_of(url: str) -> str:
    """`host:port` of an http or https URL, spelt in one way for whatever leads there.

    The host is in lower case, a name in ASCII (IDNA, as requests has it when it connects) without a dot at its end, an
    IPv6 address in its short form and in brackets; the port is there also if it is the scheme's own.

    Raises:
        ValueError: another scheme, or nothing that could be a host. The text may hold the URL.
    """
    prepared = requests.PreparedRequest()
    prepared.prepare_url(url, None)
    host, port = _endpoint(urlsplit(str(prepared.url)))
    return f"{host}:{port}"


def place_named(entry: str) -> str:
    """What a setting means by `host:port`, by `https://host` (port 443) or by `host` (any port, and none is in the
    result); spelt as `endpoint_of` does.

    Raises:
        ValueError: nothing of these.
    """
    with suppress(ValueError):
        entry = f"[{ipaddress.IPv6Address(entry)}]"
    url = entry if "://" in entry else f"https://{entry}"
    endpoint, parts = endpoint_of(url), urlsplit(url)
    if "@" in parts.netloc or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError("more than a host and a port")
    return endpoint if url == entry or parts.port is not None else endpoint.rpartition(":")[0]


def _endpoint(parts: SplitResult) -> tuple[str, int]:
    """Host and port of a URL that requests has prepared."""
    port = DEFAULT_PORTS.get(parts.scheme) if parts.port is None else parts.port
    host = parts.hostname or ""
    if parts.scheme not in DEFAULT_PORTS or port is None or "%" in host:
        raise ValueError("no http or https URL of a host")
    with suppress(ValueError):
        address = ipaddress.ip_address(host)
        return (f"[{address}]" if address.version == 6 else str(address)), port
    name = host.removesuffix(".")
    if not _HOST_NAME.fullmatch(name) or (name != host and _IPV4.fullmatch(name)):
        raise ValueError("no name that a host could have")
    return name, port


def retry_after_s(response: requests.Response, at_most_s: float) -> float | None:
    """Seconds that a Retry-After header asks for, as a number or a date; None if it says neither."""
    retry_after = response.headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d{1,18}", retry_after):
        seconds = float(retry_after)
    else:
        try:
            when = parsedate_to_datetime(retry_after)
        except (ValueError, OverflowError):
            return None
        seconds = (when.replace(tzinfo=when.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return min(max(seconds, 0.0), at_most_s)


class Transport:
    """Sends one request at a time to a checked address. Safe to share among threads; keeps no connections or cookies.

    `timeout_s` is named in messages; the deadline itself comes with each `open`. An answer must have begun, with its
    status and headers complete, within `first_byte_s` seconds. `forbidden` and `unavailable` are the failures to raise:
    the first permanent, the second retryable. `shares` says how many threads a server may have; without it, any number.

    Raises:
        ConfigError: an entry of `allow_hosts` is not host:port.
    """

    def __init__(
        self,
        *,
        timeout_s: float,
        allow_hosts: Collection[str],
        ports: Collection[int] = tuple(DEFAULT_PORTS.values()),
        forbidden: type[M3AGIQAError],
        unavailable: type[M3AGIQAError],
        shares: Shares | None = None,
        first_byte_s: float = math.inf,
    ) -> None:
        self._timeout_s = timeout_s
        self._trusted = frozenset(map(_allowed, allow_hosts))
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
            user_agent_override=USER_AGENT,
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
        except _NotPublic:
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
        host, port = _endpoint(parts)
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


def _allowed(entry: str) -> str:
    try:
        if _HOST_AND_PORT.fullmatch(entry):
            return endpoint_of(f"http://{entry}")
    except ValueError:
        pass
    raise ConfigError(f"allowed host {quoted(entry)!r} is not host:port, such as pictures.internal:8080")


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
        return _in_time(_lookup, host, port)


def _lookup(host: str, port: int) -> list[str]:
    """Its addresses, two families in turn, the system's choice first."""
    found = socket.getaddrinfo(host, port, family=connection.allowed_gai_family(), type=socket.SOCK_STREAM)
    ours = [str(address[0]) for family, *_, address in found if family == found[0][0]]
    others = [str(address[0]) for family, *_, address in found if family != found[0][0]]
    in_turn = (address for pair in zip_longest(ours, others) for address in pair if address is not None)
    return list(dict.fromkeys(in_turn))[:_MOST_ADDRESSES]


class _NotPublic(Exception):
    """No OSError, which urllib3 would take for a broken connection."""


def _checked(address: str) -> str:
    """The address to connect to.

    Raises:
        _NotPublic: this machine may be able to reach it, but strangers are not to.
    """
    ip = bare(address)
    try:
        get_ip_address(str(ip), 0, allow_loopback=False)
    except InvalidIPAddress:
        raise _NotPublic from None
    if not ip.is_global or ip.is_reserved or any(ip in network for network in _NOT_PUBLIC):
        raise _NotPublic
    return address if ipaddress.ip_address(address) in NAT64 else str(ip)


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


class _Response(HTTPResponse):
    def begin(self) -> None:
        """Read on until the answer itself: of those announcing it, Python skips none but 100."""
        super().begin()
        while 100 < self.status < 200 and self.status != HTTPStatus.SWITCHING_PROTOCOLS:
            self.headers = None  # type: ignore[assignment]  # it has not begun, as far as Python can tell
            super().begin()


class _Connection(HTTPConnection):
    response_class = _Response

    def _new_conn(self) -> socket.socket:
        name = self._dns_host
        addresses = _addresses(name.strip("[]"), self.port)
        if not _exchange.get().trusted:
            # All of them: a name that leads inside as well as outside means no good.
            addresses = [_checked(address) for address in addresses]
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
