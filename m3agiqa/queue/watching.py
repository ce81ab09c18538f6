"""Tells which verdicts come, whoever waits for them, by one connection and one thread."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from redis.client import PubSub

from m3agiqa.errors import QueueUnavailable
from m3agiqa.fields import is_name
from m3agiqa.queue import keys
from m3agiqa.queue.connection import SILENCE_S, Connection

logger = logging.getLogger(__name__)

#: Is called with the name of each request that has a verdict, and with None once some may have been missed.
Hear = Callable[[str | None], None]

#: Seconds in which Redis must have taken the subscription.
_BEGIN_S = 10.0
#: Seconds between two looks at whether anybody still listens.
_NOTICE_S = 0.5
#: Seconds between two tries to reach Redis, and seconds that `close` waits for the thread.
_TRY_AGAIN_S, _CLOSE_S = 0.5, 5.0


class Watching:
    """Everybody who listens for verdicts. Safe to share among threads; the thread begins with the first who listens."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._channel = connection.key(keys.done(""))
        self._listening: set[Hear] = set()
        self._changed = threading.Condition()
        self._subscribed = False
        self._thread: threading.Thread | None = None
        self._closed = False

    @contextmanager
    def listen(self, hear: Hear) -> Iterator[None]:
        """Call `hear` in the thread for each verdict that comes while the block runs, from the end of `begin` on. After
        it was called with None, it is called no more.
        """
        with self._changed:
            if self._closed:
                raise QueueUnavailable("the client is closed")
            self._listening.add(hear)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="m3agiqa-watching", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._listening.discard(hear)

    def begin(self, hear: Hear) -> None:
        """Wait until Redis has taken the subscription for one who listens.

        Raises:
            QueueUnavailable: Redis cannot be reached, or forbids this user to.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._subscribed or hear not in self._listening, _BEGIN_S)
            if not self._subscribed or hear not in self._listening:
                raise QueueUnavailable("Redis takes no subscription to verdicts")

    def close(self) -> None:
        """End the thread. Whoever listens hears None."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(_CLOSE_S)

    def _run(self) -> None:
        while self._somebody_listens(None):
            try:
                with self._connection.subscription() as announced:
                    announced.psubscribe(f"{self._channel}*")
                    self._pass_on(announced)
            except QueueUnavailable as error:
                logger.warning("%s", error)
            except Exception:
                # Whoever listens must not do so in vain.
                logger.exception("listening for verdicts failed")
            self._lose()
        self._lose()

    def _somebody_listens(self, timeout_s: float | None) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._listening or self._closed, timeout_s)
            somebody = bool(self._listening) and not self._closed
            # Whoever listens from now on waits for the next subscription.
            self._subscribed = self._subscribed and somebody
            return somebody

    def _pass_on(self, announced: PubSub) -> None:
        """Pass on what is announced, until nobody listens.

        Raises:
            QueueUnavailable: Redis says nothing any more, or redis-py has connected anew: announcements may be missing.
        """
        begun = False
        heard_at = asked_at = time.monotonic()
        while self._somebody_listens(0):
            message = announced.get_message(timeout=_NOTICE_S)
            now = time.monotonic()
            if message is not None:
                heard_at = now
                if message["type"] == "psubscribe":
                    if begun:
                        raise QueueUnavailable("the connection to Redis was lost")
                    begun = True
                self._heard(message["type"], str(message.get("channel")))
            elif now - heard_at > 2 * SILENCE_S:
                raise QueueUnavailable("Redis says nothing any more")
            elif now - asked_at > SILENCE_S:
                asked_at = now
                announced.ping()

    def _heard(self, kind: str, channel: str) -> None:
        with self._changed:
            if kind == "psubscribe":
                self._subscribed = True
                self._changed.notify_all()
            hearers = list(self._listening)
        name = channel.removeprefix(self._channel)
        if kind == "pmessage" and is_name(name):
            for hear in hearers:
                with suppress(Exception):  # one who is gone is no reason to fail the others
                    hear(name)

    def _lose(self) -> None:
        """Tell all that they may have missed some, and forget them."""
        with self._changed:
            lost, self._listening, self._subscribed = self._listening, set(), False
            self._changed.notify_all()
        for hear in lost:
            with suppress(Exception):
                hear(None)
        if lost:
            with self._changed:
                self._changed.wait_for(lambda: self._closed, _TRY_AGAIN_S)
