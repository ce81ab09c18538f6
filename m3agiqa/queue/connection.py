"""Connects to Redis, and turns its errors into one of ours that says what to do."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from threading import BoundedSemaphore
from typing import Any, TypeVar

from redis import Redis
from redis.backoff import ExponentialBackoff
from redis.client import PubSub
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ClusterCrossSlotError,
    ClusterDownError,
    ConnectionError,
    InvalidResponse,
    MasterDownError,
    MovedError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TimeoutError,
)
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError

from m3agiqa.errors import QueueUnavailable
from m3agiqa.queue.address import Address
from m3agiqa.queue.scripts import text
from m3agiqa.queue.sentinel import primary

#: Seconds without an answer after which a connection counts as dead: longer than any command of ours takes. Proxies,
#: firewalls and frozen hosts drop connections without a word.
SILENCE_S = 10.0
CONNECT_TIMEOUT_S = 5.0
#: Seconds for which a command is tried again, with pauses that grow to a second.
PATIENCE_S = 1.0

#: Errors that are worth another try: a lost connection, full memory, a failover under way.
_PASSING = (ConnectionError, TimeoutError, OutOfMemoryError, ReadOnlyError)

_Result = TypeVar("_Result")


class _NoWrites(RedisError):
    """Redis takes no writes for now. redis-py has no class for that."""


#: It cannot save them to its disk; too few replicas follow, as after a failover.
_NO_WRITES = ("MISCONF", "NOREPLICAS")


IN_CLUSTER = (
    "it is a node of a Redis Cluster, where no step may change keys on several nodes, as each of ours does; "
    "name a Redis or Valkey that is none"
)
#: Refusals whose code redis-py does not pass on: the class it raises, words in its message, and our sentence.
_REFUSALS: tuple[tuple[type[RedisError], str, str], ...] = (
    (AuthenticationError, "invalid", "WRONGPASS, it refused the password: check user and password in its URL"),
    (AuthenticationError, "without any password", "it knows no password: leave out the one in its URL"),
    (AuthenticationError, "", "NOAUTH, it wants a password: name one in its URL"),
    (BusyLoadingError, "", "LOADING, it reads its data from its disk and will soon be there"),
    (ConnectionError, "max number of clients", "max number of clients reached: raise its maxclients"),
    (RedisError, "MISCONF", "MISCONF, it cannot save to its disk: see its log"),
    (RedisError, "NOREPLICAS", "NOREPLICAS, fewer replicas follow it than its min-replicas-to-write: see to these"),
    (OutOfMemoryError, "", "OOM, its memory is full: raise maxmemory, or let the queue drain"),
    (ReadOnlyError, "", "READONLY, it is a replica: name the primary in its URL"),
    (MasterDownError, "", "MASTERDOWN, it is a replica without its primary: name the primary in its URL"),
    (NoPermissionError, "", "NOPERM, the URL's user may not do this"),
    (MovedError, "", f"MOVED, {IN_CLUSTER}"),
    (ClusterDownError, "", f"CLUSTERDOWN, {IN_CLUSTER}"),
    (RedisError, "not allowed in cluster mode", IN_CLUSTER),
    (RedisError, "DB index is out of range", "it has no database of the number at the end of its URL"),
    (RedisError, "unknown command 'SENTINEL'", "it is no Sentinel: its URL begins with redis:// or rediss://"),
    (RedisError, "unknown command", "it does not know a command of ours; use Redis 7 or newer, or Valkey"),
    (ClusterCrossSlotError, "", f"CROSSSLOT, {IN_CLUSTER}"),
)


class _Patience(Retry):
    """Tries again for a number of seconds, not a number of times: one try of a silent Redis takes long."""

    def __init__(self, seconds: float, errors: tuple[type[Exception], ...]) -> None:
        super().__init__(ExponentialBackoff(cap=1.0, base=0.05), -1, errors)
        self._seconds = seconds

    def call_with_retry(
        self, do: Callable[[], _Result], fail: Callable[..., Any], *arguments: Any, **options: Any
    ) -> _Result:
        until = time.monotonic() + self._seconds

        def failed(error: Exception, *count: int) -> None:
            fail(error, *count)
            if time.monotonic() >= until:
                raise error

        return super().call_with_retry(do, failed, *arguments, **options)


def connect(url: str, *, patience_s: float = PATIENCE_S, silence_s: float = SILENCE_S) -> Redis:
    """A client for `url` that reads strings. It connects on first use, and threads may share it.

    Raises:
        ConfigError: not a Redis URL.
    """
    address = Address.parse(url)
    options: dict[str, Any] = {
        "decode_responses": True,
        # Any bytes that a stranger wrote can be read, and written again as they were.
        "encoding_errors": "surrogateescape",
        "socket_timeout": silence_s,
        "health_check_interval": silence_s,
        "retry": _Patience(patience_s, _PASSING),
    }
    if address.scheme != "unix":
        options |= {"socket_connect_timeout": CONNECT_TIMEOUT_S, "socket_keepalive": True}
    if address.sentinels is None:
        return Redis.from_url(replace(address, namespace="", replicas=0).url, **options)
    return primary(address, **options)


@contextmanager
def translated(url: str) -> Iterator[None]:
    """Turn redis-py's errors into ours, which say what to do.

    Raises:
        QueueUnavailable: Redis cannot be reached, or refused the command.
    """
    try:
        yield
    except RedisError as error:
        raise QueueUnavailable(named(error, Address.parse(url).endpoint)) from None


def named(error: RedisError, endpoint: str) -> str:
    """A line that says what went wrong with the Redis at `endpoint`, and what to do. It shows no data."""
    for kind, theirs, ours in _REFUSALS:
        if isinstance(error, kind) and theirs in str(error):
            return f"Redis at {endpoint} refused a command: {ours}"
    if isinstance(error, MasterNotFoundError):
        # redis-py puts into words what each Sentinel said.
        if AuthenticationError.__name__ in str(error):
            return f"the Sentinels at {endpoint} refused the login: check sentinel_username and sentinel_password"
        return (
            f"the Sentinels at {endpoint} name no primary that answers; is the name after master= in the URL theirs, "
            "and a failover over?"
        )
    if isinstance(error, InvalidResponse):
        return f"what answers at {endpoint} is no Redis; is its URL right?"
    if isinstance(error, ConnectionError | TimeoutError):
        return f"Redis at {endpoint} cannot be reached ({_cause(error)}); is it running, and its URL right?"
    # Only the first word, which is Redis' code (NOREPLICAS, BUSY ...): the rest may hold what the command carried.
    return f"Redis at {endpoint} refused a command: {_code(error)}"


class Connection:
    """A connection to Redis that threads may share; it connects on first use.

    Methods raise QueueUnavailable if Redis cannot be reached or refuses a command. They try again for `patience_s`
    seconds what may pass: a lost connection, a failover, missing replicas, full memory, a full disk. They give up a
    connection on which Redis says nothing for `silence_s` seconds.

    At most `at_once` threads ask at a time, and others wait; None sets no limit but that of redis-py, which refuses to
    make more than a hundred connections.

    Raises:
        ConfigError: not a Redis URL.
    """

    def __init__(
        self,
        url: str,
        *,
        patience_s: float = PATIENCE_S,
        silence_s: float = SILENCE_S,
        at_once: int | None = None,
    ) -> None:
        self._url = url
        self._permit: AbstractContextManager[object] = nullcontext() if at_once is None else BoundedSemaphore(at_once)
        address = Address.parse(url)
        self._prefix = address.prefix
        #: Replicas that must have a request before it counts as submitted.
        self.replicas = address.replicas
        self._redis = connect(url, patience_s=patience_s, silence_s=silence_s)
        self._scripts: dict[str, Any] = {}
        self._patience = _Patience(patience_s, (_NoWrites,))

    def key(self, name: str) -> str:
        """A name of `m3agiqa.queue.keys` in the namespace that the URL gives."""
        return self._prefix + name

    def run(self, script: str, arguments: Sequence[str | int | float]) -> Any:
        """Run one of the scripts in `lua/`."""
        known = self._scripts.get(script)
        if known is None:
            known = self._scripts[script] = self._redis.register_script(text(script, self._prefix))
        return self._patiently(lambda: known(args=arguments))

    def call(self, command: str, *arguments: Any, **options: Any) -> Any:
        """Call redis-py's method of this name."""
        return self._patiently(lambda: getattr(self._redis, command)(*arguments, **options))

    def _patiently(self, act: Callable[[], Any]) -> Any:
        def attempt() -> Any:
            try:
                return act()
            except ResponseError as error:
                if (code := _code(error)) in _NO_WRITES:
                    raise _NoWrites(code) from None
                raise

        with self._permit, translated(self._url):
            return self._patience.call_with_retry(attempt, lambda _: None)

    @contextmanager
    def redis(self) -> Iterator[Redis]:
        """redis-py's client, for more than one command."""
        with self._permit, translated(self._url):
            yield self._redis

    @contextmanager
    def subscription(self) -> Iterator[PubSub]:
        """A connection of its own on which to listen. It counts for none of those that ask."""
        with translated(self._url), self._redis.pubsub() as announced:  # type: ignore[no-untyped-call]
            yield announced

    def answers(self) -> bool:
        """Whether Redis answers; raises nothing."""
        try:
            self.call("ping")
        except QueueUnavailable:
            return False
        return True

    def close(self) -> None:
        self._redis.close()


def _code(error: RedisError) -> str:
    """The first word of Redis' message, also where a script passes the message on."""
    return str(error).rpartition("caused error: ")[2].partition(" ")[0]


def _cause(error: Exception) -> str:
    """The name of the system's error behind redis-py's ConnectionError."""
    return type(error.__context__ if isinstance(error.__context__, OSError) else error).__name__
