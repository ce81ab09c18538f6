"""Logs a trouble with Redis once a minute and in one line, however many threads meet it.

Celery 5.6 logs a traceback and a warning each time it loses Redis, and a line each time it tries to connect: dozens a
second where Redis lets it connect and then refuses a command.
"""

from __future__ import annotations

import logging

from redis.exceptions import RedisError

from m3agiqa.queue.connection import named
from worker.ops.seldom import Seldom

#: Seconds before the same record may be logged again.
_AGAIN_S = 60.0
#: Loggers, ours and Celery's, that log troubles with Redis, and the one that tells of a collector of spans.
_LOGGERS = (
    *("worker.ops.loops", "worker.runtime"),
    *(f"celery.worker.consumer.{name}" for name in ("consumer", "connection", "mingle")),
    *("kombu.transport.virtual.base", "py.warnings"),
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
)


class OnceAMinute(logging.Filter):
    """Lets a record pass if none like it passed for a minute: one with the same words, and the same error if it has
    one.

    Where a record has an error of the Redis at `endpoint`, a sentence for it replaces the traceback.
    """

    def __init__(self, endpoint: str, again_s: float = _AGAIN_S) -> None:
        super().__init__()
        self._endpoint = endpoint
        self._seldom = Seldom(again_s)

    def filter(self, record: logging.LogRecord) -> bool:
        error = _error_in(record)
        if error is None:
            return self._seldom.now((record.getMessage(), ""))
        words = named(error, self._endpoint) if isinstance(error, RedisError) else str(error)
        new = self._seldom.now((str(record.msg), words))
        # RestartFreqExceeded: Celery lost many connections in a second. To import its class would be too early for
        # Sentry.
        if new and (isinstance(error, RedisError) or type(error).__name__ == "RestartFreqExceeded"):
            _rewrite(record, error, words)
        return new


def _error_in(record: logging.LogRecord) -> BaseException | None:
    given = record.args if isinstance(record.args, tuple) else ()
    happened = record.exc_info[1] if record.exc_info else None
    return next((each for each in (*given, happened) if isinstance(each, BaseException)), None)


def _rewrite(record: logging.LogRecord, error: BaseException, words: str) -> None:
    given = record.args if isinstance(record.args, tuple) else ()
    record.args = tuple(words if each is error else each for each in given)
    text = " ".join(record.getMessage().split())
    record.msg, record.args = (text if error in given else f"{text} {words}"), ()
    record.exc_info = record.exc_text = None


def install(endpoint: str) -> None:
    """Filter these loggers in this process from now on, for the Redis at `endpoint`."""
    once = OnceAMinute(endpoint)
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(once)
