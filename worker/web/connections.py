"""Connections that end by a deadline, go to checked addresses alone, and ask whether their exchange may go on.

requests and urllib3 cannot pass the exchange on to a socket, so a context variable holds it.
"""

from __future__ import annotations

import ipaddress
import math
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

import certifi
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from worker.shares import Share
from worker.web.addresses import lookup
from worker.web.answers import Answer
from worker.web.sites import endpoint_at

#: Seconds until the next address of a name is tried.
_NEXT_ADDRESS_S = 2.0

_Result = TypeVar("_Result")


@dataclass
class Exchange:
    share: Share
    #: Deadline in seconds of `time.monotonic`: first for the beginning of the answer, then for all of it.
    until: float
    #: Gives the address to connect to for one of the host's, or raises NotPublic.
    checked: Callable[[str], str]


#: The exchange that this thread carries out.
_exchange: ContextVar[Exchange] = ContextVar("exchange")


@contextmanager
def going_on(exchange: Exchange) -> Iterator[None]:
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
    """Seconds that this thread may wait now; to wait longer, it asks again."""
    return min(_seconds_left(), _exchange.get().share.go_on())


def _in_time(call: Callable[..., _Result], *args: Any) -> _Result:
    """Call a function in a thread, and wait for it while the exchange may go on. Nothing can interrupt the system's
    resolver: a call that is late ends by itself some time.
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
    """Close a connection that came too late for its exchange."""
    if late.exception() is None and isinstance(connected := late.result(), socket.socket):
        connected.close()


def _addresses(host: str, port: int) -> list[str]:
    """The addresses to try for a host, which may be an address itself."""
    try:
        return [str(ipaddress.ip_address(host))]
    except ValueError:
        return _in_time(lookup, host, port)


class _Socket(socket.socket):
    """Waits while the exchange may go on. A mere timeout would start anew with each byte that a slow server sends."""

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
                """Ask again: `settimeout` raises if the exchange may not go on."""


class _TLSSocket(_Socket, ssl.SSLSocket):
    def do_handshake(self, block: bool = False) -> None:
        self._patiently(super().do_handshake, block)


def tls_context() -> ssl.SSLContext:
    # The system's authorities, so that SSL_CERT_FILE can name a private one, and certifi's for containers without any.
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    context.sslsocket_class = _TLSSocket
    return context


class _Connection(HTTPConnection):
    response_class = Answer

    def _new_conn(self) -> socket.socket:
        name = self._dns_host
        # All must pass: a name with a private address beside a public one means no good.
        addresses = [_exchange.get().checked(address) for address in _addresses(name.strip("[]"), self.port)]
        try:
            plain = self._connect(addresses)
        finally:
            # TLS and the Host header need the name.
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
                """Try the next one."""
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


class CheckedAdapter(HTTPAdapter):
    def __init__(self, tls: ssl.SSLContext) -> None:
        self._tls = tls
        super().__init__()

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **pool_kwargs: Any) -> None:
        super().init_poolmanager(connections, maxsize, block, ssl_context=self._tls, **pool_kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _TLSPool}

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        # The context holds the authorities; requests would read its bundle again for every connection.
        conn.cert_reqs = "CERT_REQUIRED"
