"""A Redis transport for kombu 5.7 that takes nothing from a message but a task's name.

Celery and kombu trust what lies on a list: a text that is not JSON ends the worker, a message without a delivery tag
drops its connection, an odd header ends the worker or is never acknowledged. This transport reads a name from a message
and gives Celery a new message with it (see `wakeups`); it drops a message without a name.

It also tells how long Celery's main loop has stood still (`idle_s`), which nothing else shows.
"""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import Any

from kombu.transport import TRANSPORT_ALIASES
from kombu.transport import redis as kombu_redis

from m3agiqa.queue import keys
from worker.celery_patches import wakeups

logger = logging.getLogger(__name__)

_QUEUES = (keys.SCORE_QUEUE, keys.DELIVER_QUEUE)


def install() -> None:
    """Have kombu use these transports in this process for every Redis URL."""
    TRANSPORT_ALIASES.update(dict.fromkeys(("redis", "rediss"), f"{__name__}:NamesOnlyTransport"))
    TRANSPORT_ALIASES["sentinel"] = f"{__name__}:NamesOnlySentinelTransport"


def idle_s() -> float:
    """Seconds since Celery's main loop last came round, or tried to reach Redis."""
    return time.monotonic() - NamesOnlyTransport.came_round


def _come_round() -> None:
    NamesOnlyTransport.came_round = time.monotonic()


class NamesOnlyRedis(kombu_redis.PrefixedStrictRedis):
    """Drops messages without a task's name: BRPOP then seems to have found nothing.

    The prefix, which is empty without a namespace, is gone from the names of lists that it reads.
    """

    def parse_response(self, connection: Any, command_name: str, **options: Any) -> Any:
        reply = super().parse_response(connection, command_name, **options)  # type: ignore[no-untyped-call]
        if command_name != "BRPOP" or not reply:
            return reply
        list_key, raw = reply
        queue, _, priority = list_key.decode().partition(keys.SEPARATOR)
        if queue not in _QUEUES:
            # Lists of Celery's own: workers ask each other questions as they start.
            return reply
        name = wakeups.name_in(raw, queue)
        if name is None:
            logger.warning("a message on %s named no task and was dropped", queue)
            return None
        return list_key, wakeups.message(queue, int(priority or 0), name).encode()


class NamesOnlyChannel(kombu_redis.Channel):
    _pooled: NamesOnlyRedis | None = None

    def _create_client(self, asynchronous: bool = False) -> Any:
        """One client for each pool of connections, where kombu makes a new one for every command."""
        if asynchronous:
            return super()._create_client(asynchronous)  # type: ignore[no-untyped-call]
        if self._pooled is None or self._pooled.connection_pool is not self.pool:
            self._pooled = super()._create_client()  # type: ignore[no-untyped-call]
        return self._pooled

    def _get_client(self) -> Any:
        super()._get_client()  # type: ignore[no-untyped-call]  # it checks redis-py's version
        return partial(NamesOnlyRedis, global_keyprefix=self.global_keyprefix)


class NamesOnlySentinelChannel(NamesOnlyChannel, kombu_redis.SentinelChannel):
    pass


class NamesOnlyTransport(kombu_redis.Transport):
    Channel = NamesOnlyChannel
    #: When the main loop last came round, seconds of the monotonic clock.
    came_round = time.monotonic()

    def establish_connection(self) -> Any:
        _come_round()
        return super().establish_connection()  # type: ignore[no-untyped-call]

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        super().register_with_event_loop(connection, loop)  # type: ignore[no-untyped-call]
        loop.on_tick.add(_come_round)


class NamesOnlySentinelTransport(NamesOnlyTransport, kombu_redis.SentinelTransport):
    Channel = NamesOnlySentinelChannel
