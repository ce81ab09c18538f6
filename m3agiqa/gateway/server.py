"""Runs the gateway under uvicorn, which waits for no client for ever."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from m3agiqa.errors import ConfigError
from m3agiqa.gateway.settings import Settings

#: Bytes of a request's line and headers at most.
_HEAD_BYTES = 16_384
#: Seconds within which line and headers of a request must have come.
_HEAD_S = 10.0
#: Seconds that open requests have when the gateway is asked to stop, and that an idle connection is kept.
_DRAIN_S, _IDLE_S = 10, 5
#: Milliseconds for which a client may leave what it was sent unread.
_UNREAD_MS = 30_000
#: Connections that wait to be accepted.
_BACKLOG = 2_048
#: Each process logs to stderr.
_LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "plain"}},
    "root": {"level": "INFO", "handlers": ["stderr"]},
}


class Protocol(H11Protocol):
    """HTTP/1.1 that closes a connection on which the head of a request does not come in time, or what it refused goes
    on: uvicorn would wait for ever.
    """

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # Paths hold ids and what strangers made up; the application says what it did.
        self.access_log = False
        connection = transport.get_extra_info("socket")
        if hasattr(socket, "TCP_USER_TIMEOUT") and connection.family in (socket.AF_INET, socket.AF_INET6):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNREAD_MS)
        self._watch()

    def handle_events(self) -> None:
        super().handle_events()
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_watching()

    def _watch(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_watching()
        elif self._late is None and not self.transport.is_closing():
            self._late = self.loop.call_later(_HEAD_S, self.transport.abort)

    def _stop_watching(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


def run(settings: Settings) -> None:
    """Serve until a signal comes.

    Raises:
        ConfigError: it cannot begin, because it may not listen there, for one.
    """
    try:
        uvicorn.run("m3agiqa.gateway.app:from_environment", factory=True, log_config=_LOGGING, **options(settings))
    except SystemExit:
        raise ConfigError("the gateway did not start; its log says why") from None


def options(settings: Settings) -> dict[str, Any]:
    """Those of uvicorn, but for the application and logs."""
    return {
        "host": settings.host,
        "port": settings.port,
        "workers": settings.processes,
        "http": Protocol,
        "ws": "none",
        "access_log": False,
        "server_header": False,
        # Whom we believe is a matter of keys, not of addresses.
        "proxy_headers": False,
        "headers": [("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff")],
        "h11_max_incomplete_event_size": _HEAD_BYTES,
        "limit_concurrency": settings.max_connections,
        "timeout_keep_alive": _IDLE_S,
        "timeout_graceful_shutdown": _DRAIN_S,
        "backlog": _BACKLOG,
    }
