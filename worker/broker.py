"""kombu's Redis transport with a check in front of it.

Celery and kombu trust what lies on the list: something that is not JSON ends the worker, a message without a delivery
tag drops its connection, an unknown task is logged with its arguments and forgotten, one odd header ends the worker or
is never acknowledged. Here whatever is malformed becomes a dead letter, of everything else Celery sees a message that
was built here, and the worker goes on.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

from kombu.transport import redis as kombu_redis
from redis import Redis

from m3agiqa.errors import RequestInvalid
from producers import keys, message
from producers.dead import DeadLetter

logger = logging.getLogger(__name__)

#: Of a malformed message: enough to see what it was.
_KEPT_BYTES = 65_536


class CheckedRedis(Redis):
    """Answers a BRPOP that got a malformed message like one that got none."""

    def __init__(self, *args: Any, bury: Callable[[DeadLetter], None], **options: Any) -> None:
        super().__init__(*args, **options)
        self._bury = bury

    def parse_response(self, connection: Any, command_name: str, **options: Any) -> Any:
        reply = super().parse_response(connection, command_name, **options)  # type: ignore[no-untyped-call]
        if command_name != "BRPOP" or not reply:
            return reply
        list_key, raw = reply
        queue = list_key.decode().split(message.SEPARATOR)[0]
        if queue not in (keys.SCORE_QUEUE, keys.DELIVER_QUEUE):
            # What workers ask each other as they start is answered on lists of Celery's own.
            return reply
        try:
            return list_key, message.rebuilt(raw, queue).encode()
        except RequestInvalid as error:
            self._bury(malformed(queue, raw, error))
            return None


def malformed(queue: str, raw: bytes, error: RequestInvalid) -> DeadLetter:
    logger.error("a malformed message on %s became a dead letter: %s", queue, error)
    return DeadLetter(
        queue=queue,
        request_id=None,
        kind="message",
        code=error.code,
        reason=str(error),
        attempts=1,
        message=raw[:_KEPT_BYTES].decode("utf-8", errors="backslashreplace"),
        cut=len(raw) > _KEPT_BYTES,
    )


class Channel(kombu_redis.Channel):
    _pooled: CheckedRedis | None = None

    def _create_client(self, asynchronous: bool = False) -> Any:
        """One client for a pool of connections, where kombu makes one for every command, each like the others."""
        if asynchronous:
            return super()._create_client(asynchronous)  # type: ignore[no-untyped-call]
        if self._pooled is None or self._pooled.connection_pool is not self.pool:
            self._pooled = super()._create_client()  # type: ignore[no-untyped-call]
        return self._pooled

    def _get_client(self) -> Any:
        super()._get_client()  # type: ignore[no-untyped-call]  # it checks redis-py's version
        return functools.partial(CheckedRedis, bury=self._bury)

    def _bury(self, letter: DeadLetter) -> None:
        with self.conn_or_acquire() as client:
            client.hset(keys.DEAD, letter.id, letter.model_dump_json())


class Transport(kombu_redis.Transport):
    Channel = Channel
