"""One way to reach Redis, and one failure when it cannot be reached."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from redis import Redis
from redis.backoff import ExponentialBackoff
from redis.exceptions import (
    AuthenticationError,
    ConnectionError,
    InvalidResponse,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TimeoutError,
)
from redis.retry import Retry

from m3agiqa.errors import ConfigError, QueueUnavailable
from m3agiqa.queue.scripts import text

#: Seconds. Longer than any command we send takes, shorter than anybody's patience.
SOCKET_TIMEOUT_S = 10.0
CONNECT_TIMEOUT_S = 5.0
#: Tries of a command after the first, with pauses growing to a second.
RETRIES = 4
#: Seconds a connection may have been idle before it is checked: firewalls forget it silently.
HEALTH_CHECK_S = 10

#: What passes by itself, or by an operator's hand, and is worth another try: full memory, and a failover under way.
_PASSING = (ConnectionError, TimeoutError, OutOfMemoryError, ReadOnlyError)


class _NotSaving(RedisError):
    """Redis takes no writes, as it cannot save them (MISCONF); redis-py has no class for it."""


#: What Redis says where redis-py keeps its code to itself.
_REFUSALS: dict[type[RedisError], str] = {
    _NotSaving: "MISCONF, it cannot save to its disk: see its log",
    OutOfMemoryError: "OOM, its memory is full: raise maxmemory, or let the queue drain",
    ReadOnlyError: "READONLY, it is a replica: name the primary in its URL",
    NoPermissionError: "NOPERM, the URL's user may not do this",
}


def connect(url: str, *, retries: int = RETRIES) -> Redis:
    """A client for `url`, safe to share between threads; connects on first use. What it reads are strings.

    Raises:
        ConfigError: not a Redis URL.
    """
    try:
        return Redis.from_url(
            url,
            decode_responses=True,
            # Whatever a stranger wrote can be read, and written again as it was.
            encoding_errors="surrogateescape",
            socket_timeout=SOCKET_TIMEOUT_S,
            socket_connect_timeout=CONNECT_TIMEOUT_S,
            socket_keepalive=True,
            health_check_interval=HEALTH_CHECK_S,
            retry=Retry(_pauses(), retries, supported_errors=_PASSING),
        )
    except ValueError:
        raise ConfigError("the Redis URL must look like redis://host:6379/0, rediss:// for TLS") from None


@contextmanager
def translated(url: str) -> Iterator[None]:
    """Turn redis-py's failures into ours, saying what to do.

    Raises:
        QueueUnavailable: Redis cannot be reached, or refused the command.
    """
    try:
        yield
    except AuthenticationError:
        raise QueueUnavailable(f"Redis at {place(url)} refused the password; check the one in its URL") from None
    except (ConnectionError, TimeoutError) as error:
        raise QueueUnavailable(
            f"Redis at {place(url)} cannot be reached ({_cause(error)}); is it running, and its URL right?"
        ) from None
    except InvalidResponse:
        raise QueueUnavailable(f"what answers at {place(url)} is no Redis; is its URL right?") from None
    except RedisError as error:
        # Redis' own code (MISCONF, NOREPLICAS, ...) is the first word; around it stands what the command carries.
        word = _REFUSALS.get(type(error)) or _code(error)
        raise QueueUnavailable(f"Redis at {place(url)} refused a command: {word}") from None


class Connection:
    """A Redis, safe to share between threads; connects on first use.

    Methods raise QueueUnavailable if it cannot be reached or refuses. What passes (a lost connection, a failover, want
    of memory, a disk that is full) is tried `retries` times again, with pauses growing to a second.

    Raises:
        ConfigError: not a Redis URL.
    """

    def __init__(self, url: str, *, retries: int = RETRIES) -> None:
        self._url = url
        self._redis = connect(url, retries=retries)
        self._scripts: dict[str, Any] = {}
        self._patience = Retry(_pauses(), retries, supported_errors=(_NotSaving,))

    def run(self, script: str, arguments: Sequence[str | int | float]) -> Any:
        """Run one of the scripts in `lua/`."""
        known = self._scripts.get(script)
        if known is None:
            known = self._scripts[script] = self._redis.register_script(text(script))
        return self._patiently(lambda: known(args=arguments))

    def call(self, command: str, *arguments: Any, **options: Any) -> Any:
        """Call the method of redis-py's client that is named like the command."""
        return self._patiently(lambda: getattr(self._redis, command)(*arguments, **options))

    def _patiently(self, act: Callable[[], Any]) -> Any:
        def attempt() -> Any:
            try:
                return act()
            except ResponseError as error:
                if _code(error) == "MISCONF":
                    raise _NotSaving from None
                raise

        with translated(self._url):
            return self._patience.call_with_retry(attempt, lambda _: None)

    @contextmanager
    def redis(self) -> Iterator[Redis]:
        """redis-py's client, for more than one command."""
        with translated(self._url):
            yield self._redis

    def close(self) -> None:
        self._redis.close()


def ping(url: str) -> None:
    """Whether Redis answers.

    Raises:
        ConfigError: not a Redis URL.
        QueueUnavailable: no answer, a wrong password, or something else than Redis.
    """
    with connect(url, retries=0) as redis, translated(url):
        redis.ping()


def place(url: str) -> str:
    """`host:port` of a Redis URL: what may be shown of it."""
    parts = urlsplit(url)
    return f"{parts.hostname or 'localhost'}:{parts.port or 6379}"


def _pauses() -> ExponentialBackoff:
    return ExponentialBackoff(cap=1.0, base=0.05)


def _code(error: RedisError) -> str:
    """The first word of what Redis said, also where a script passes it on."""
    return str(error).rpartition("caused error: ")[2].partition(" ")[0]


def _cause(error: Exception) -> str:
    """The name of the system's own error, which redis-py calls a ConnectionError whatever it was."""
    return type(error.__context__ if isinstance(error.__context__, OSError) else error).__name__
