"""Whether Redis answers, over a plain socket: the library does without the redis package."""

from __future__ import annotations

import socket
import ssl
from urllib.parse import SplitResult, unquote, urlsplit

from m3agiqa.errors import ConfigError, QueueUnavailable

TIMEOUT_S = 5.0


def place(url: str) -> str:
    """`host:port` of a Redis URL: what may be shown of it.

    Raises:
        ConfigError: it is no redis:// or rediss:// URL.
    """
    parts, port = _split(url)
    return f"{parts.hostname or 'localhost'}:{port}"


def ping(url: str) -> None:
    """Log in if the URL has a password, and PING.

    Raises:
        ConfigError: it is no redis:// or rediss:// URL.
        QueueUnavailable: no answer, a wrong password, or something else than Redis.
    """
    parts, port = _split(url)
    host = parts.hostname or "localhost"
    commands = [["PING"]]
    if parts.password:
        user = [unquote(parts.username)] if parts.username else []
        commands.insert(0, ["AUTH", *user, unquote(parts.password)])
    try:
        with socket.create_connection((host, port), TIMEOUT_S) as plain:
            if parts.scheme == "redis":
                _talk(plain, commands, place(url))
            else:
                with ssl.create_default_context().wrap_socket(plain, server_hostname=host) as secure:
                    _talk(secure, commands, place(url))
    except OSError as error:
        raise QueueUnavailable(f"Redis at {place(url)} cannot be reached ({type(error).__name__})") from error


def _split(url: str) -> tuple[SplitResult, int]:
    try:
        parts = urlsplit(url)
        port = parts.port or 6379
    except ValueError:
        raise ConfigError("the Redis URL is no URL") from None
    if parts.scheme not in ("redis", "rediss"):
        raise ConfigError("the Redis URL must start with redis:// or rediss://")
    return parts, port


def _talk(connection: socket.socket, commands: list[list[str]], where: str) -> None:
    with connection.makefile("rb") as replies:
        for command in commands:
            words = [word.encode() for word in command]
            parts = [b"$%d\r\n%s\r\n" % (len(word), word) for word in words]
            connection.sendall(b"*%d\r\n" % len(words) + b"".join(parts))
            reply = replies.readline(512)
            if not reply.startswith(b"+"):
                # The first word is Redis' error code; the rest could repeat what was sent.
                code = reply.decode(errors="replace").removeprefix("-").partition(" ")[0].strip()
                raise QueueUnavailable(f"Redis at {where} refused {command[0]} ({code[:20] or 'no answer'})")
