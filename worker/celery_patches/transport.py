"""kombu 5.7's Redis transport, of which Celery sees messages that were written here.

Celery and kombu trust what lies on a list: something that is not JSON ends the worker, a message without a delivery tag
drops its connection, an odd header ends the worker or is never acknowledged. Here a message is a name and nothing else
(see `wakeups`); what carries none wakes nobody.

Nor does anybody see from outside whether Celery's main loop, which takes messages, still comes round: `idle_s` tells.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from kombu.transport import TRANSPORT_ALIASES
from kombu.transport import redis as kombu_redis
from redis import Redis

from m3agiqa.queue import keys
from worker.celery_patches import wakeups

logger = logging.getLogger(__name__)

_QUEUES = (keys.SCORE_QUEUE, keys.DELIVER_QUEUE)


def install() -> None:
    """Use it in this process from now on, for every Redis URL."""
    TRANSPORT_ALIASES.update(dict.fromkeys(("redis", "rediss"), f"{__name__}:NamesOnlyTransport"))


def idle_s() -> float:
    """Seconds since Celery's main loop last came round, or tried to reach Redis."""
    return time.monotonic() - NamesOnlyTransport.came_round


def _come_round() -> None:
    NamesOnlyTransport.came_round = time.monotonic()


class NamesOnlyRedis(Redis):
    """Answers a BRPOP that got a message without a name like one that got none."""

    def parse_response(self, connection: Any, command_name: str, **options: Any) -> Any:
        reply = super().parse_response(connection, command_name, **options)  # type: ignore[no-untyped-call]
        if command_name != "BRPOP" or not reply:
            return reply
        list_key, raw = reply
        queue, _, priority = list_key.decode().partition(keys.SEPARATOR)
        if queue not in _QUEUES:
            # What workers ask each other as they start is answered on lists of Celery's own.
            return reply
        name = wakeups.name_in(raw, queue)
        if name is None:
            logger.warning("a message on %s named no task and was dropped", queue)
            return None
        return list_key, wakeups.message(queue, int(priority or 0), name).encode()


class NamesOnlyChannel(kombu_redis.Channel):
    _pooled: NamesOnlyRedis | None = None

    def _create_client(self, asynchronous: bool = False) -> Any:
        """One client for a pool of connections, where kombu makes one for every command, each like the others."""
        if asynchronous:
            return super()._create_client(asynchronous)  # type: ignore[no-untyped-call]
        if self._pooled is None or self._pooled.connection_pool is not self.pool:
            self._pooled = super()._create_client()  # type: ignore[no-untyped-call]
        return self._pooled

    def _get_client(self) -> Any:
        super()._get_client()  # type: ignore[no-untyped-call]  # it checks redis-py's version
        return NamesOnlyRedis


class NamesOnlyTransport(kombu_redis.Transport):
    Channel = NamesOnlyChannel
    #: When the main loop last did, in seconds of the monotonic clock.
    came_round = time.monotonic()

    def establish_connection(self) -> Any:
        _come_round()
        return super().establish_connection()  # type: ignore[no-untyped-call]

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        super().register_with_event_loop(connection, loop)  # type: ignore[no-untyped-call]
        loop.on_tick.add(_come_round)
