"""Waits for the verdicts of any number of requests, by one connection and one thread.

The connection subscribes to the channel of each request that somebody waits for. Redis' answer to that, and each
announcement, says which verdict to look for. So none is missed that comes between, and none whose announcement was lost
with the connection: the next one subscribes anew. Each second the thread also looks at some of the requests unasked.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from itertools import islice

from redis.client import PubSub
from redis.exceptions import RedisError

from m3agiqa.chunks import chunks
from m3agiqa.errors import QueueUnavailable
from m3agiqa.queue import keys
from m3agiqa.queue.connection import Connection

logger = logging.getLogger(__name__)

#: Seconds within which the thread sees that somebody waits for another request.
_NOTICE_S = 0.02
#: Seconds between two looks unasked, and requests that each look takes in: of few requests all, of many some in turn.
_LOOK_AGAIN_S = 1.0
_AT_ONCE = 500
#: Seconds for which waits outlive a Redis that is away, and seconds between two tries to reach it.
_AWAY_S = 60.0
_TRY_AGAIN_S = 0.5
#: Seconds that `close` waits for the thread, which may be waiting for Redis.
_CLOSE_S = 5.0


class _Wait(Future[str]):
    """The verdict of one request as JSON, once it is another text than `stale`."""

    def __init__(self, request_id: str, stale: str | None) -> None:
        super().__init__()
        self.request_id = request_id
        self.stale = stale
        self.looked = False


class Waiting:
    """Everybody who waits for a verdict. Safe to share among threads; the thread begins with the first wait, and a
    process that was forked begins its own.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._channel = connection.key(keys.done(""))
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._waits: dict[str, set[_Wait]] = {}
        #: Requests for which a wait began since the thread last noticed.
        self._begun: set[str] = set()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    def add(self, request_id: str, stale: str | None = None) -> Future[str]:
        """Wait for the verdict of a request; a verdict that is the text `stale` does not count. The future gives the
        verdict as JSON, and its waiter ends it by `discard`.

        It fails with QueueUnavailable if Redis cannot be reached when the wait begins, or is away for a minute later.
        """
        if self._pid != os.getpid():
            self._begin()
        wait = _Wait(request_id, stale)
        with self._changed:
            if self._closed:
                raise QueueUnavailable("the client is closed")
            self._waits.setdefault(request_id, set()).add(wait)
            self._begun.add(request_id)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="m3agiqa-waiting", daemon=True)
                self._thread.start()
            self._changed.notify()
        return wait

    def discard(self, wait: Future[str]) -> None:
        """End a wait, whether or not the verdict came."""
        assert isinstance(wait, _Wait)
        with self._changed:
            left = self._waits.get(wait.request_id, set())
            left.discard(wait)
            if not left:
                self._waits.pop(wait.request_id, None)

    def close(self) -> None:
        """End the thread. Who still waits gets QueueUnavailable."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None and self._pid == os.getpid():
            self._thread.join(_CLOSE_S)
        self._fail(QueueUnavailable("the client was closed"), self._all())

    def _run(self) -> None:
        away_since: float | None = None
        while self._somebody_waits():
            try:
                with self._connection.subscription() as announced:
                    for request_ids in self._announced(announced):
                        self._look(request_ids)
                        away_since = None
            except QueueUnavailable as error:
                away_since = away_since or time.monotonic()
                is_long = time.monotonic() - away_since > _AWAY_S
                self._fail(error, [wait for wait in self._all() if is_long or not wait.looked])
                self._pause()
            except Exception as error:
                # Whoever waits must not do so for ever.
                logger.exception("waiting for verdicts failed")
                self._fail(error, self._all())
                self._pause()

    def _pause(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed, _TRY_AGAIN_S)

    def _somebody_waits(self) -> bool:
        """Wait until somebody does; False once there will be nobody any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._waits or self._closed)
            return not self._closed

    def _announced(self, announced: PubSub) -> Iterator[list[str]]:
        """Requests to look at, as long as somebody waits."""
        subscribed: set[str] = set()
        turn: Iterator[str] = iter(())
        unasked_at = time.monotonic() + _LOOK_AGAIN_S
        while self._somebody_waits():
            with self._changed:
                wanted, begun, self._begun = set(self._waits), self._begun, set()
            # Redis answers to a new subscription alone.
            found = begun & subscribed
            for request_ids in chunks(wanted - subscribed, _AT_ONCE):
                announced.subscribe(*(self._channel + name for name in request_ids))
            for request_ids in chunks(subscribed - wanted, _AT_ONCE):
                announced.unsubscribe(*(self._channel + name for name in request_ids))  # type: ignore[no-untyped-call]
            subscribed = wanted
            found |= self._messages(announced)
            if time.monotonic() >= unasked_at:
                unasked_at = time.monotonic() + _LOOK_AGAIN_S
                if not (some := list(islice(turn, _AT_ONCE))):
                    turn = iter(list(wanted))
                    some = list(islice(turn, _AT_ONCE))
                found.update(some)
            if found:
                yield list(found)

    def _messages(self, announced: PubSub) -> set[str]:
        """The requests that messages name, which came or come at once."""
        found: set[str] = set()
        timeout_s = _NOTICE_S
        while len(found) < _AT_ONCE and (message := announced.get_message(timeout=timeout_s)) is not None:
            if message["type"] in ("subscribe", "message"):
                found.add(str(message["channel"]).removeprefix(self._channel))
            timeout_s = 0.0
        return found

    def _look(self, request_ids: Iterable[str]) -> None:
        for some in chunks(request_ids, _AT_ONCE):
            with self._connection.redis() as redis, redis.pipeline(transaction=False) as pipeline:
                for name in some:
                    pipeline.get(self._connection.key(keys.result(name)))
                found = pipeline.execute(raise_on_error=False)
                # One key of a stranger's is no reason to fail the others.
                if failed := [one for one in found if isinstance(one, RedisError) and "WRONGTYPE" not in str(one)]:
                    raise failed[0]
            for name, text in zip(some, found, strict=True):
                self._looked(name, text)

    def _looked(self, request_id: str, text: str | RedisError | None) -> None:
        with self._changed:
            waits = list(self._waits.get(request_id, ()))
        for wait in waits:
            wait.looked = True
            if isinstance(text, RedisError):
                self._fail(QueueUnavailable("Redis refused a command: WRONGTYPE"), [wait])
            elif text is not None and text != wait.stale:
                self.discard(wait)
                # Its waiter may have given up at this moment.
                with suppress(InvalidStateError):
                    wait.set_result(text)

    def _all(self) -> list[_Wait]:
        with self._changed:
            return [wait for waits in self._waits.values() for wait in waits]

    def _fail(self, error: Exception, waits: Iterable[_Wait]) -> None:
        for wait in waits:
            self.discard(wait)
            with suppress(InvalidStateError):
                wait.set_exception(error)
