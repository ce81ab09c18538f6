"""Says a trouble with Redis once a minute, whatever number of threads meets it however often."""

from __future__ import annotations

import logging
import threading
import time

#: Seconds for which a trouble that was told is not told again.
_AGAIN_S = 60.0
#: Those that tell of Redis: our own, and Celery's, which tells of every try to connect.
_LOGGERS = ("worker.ops.loops", "worker.runtime", "celery.worker.consumer.consumer")


class OnceAMinute(logging.Filter):
    """Lets a record with an error pass if none of its kind, the same words with the same error, did for a minute."""

    def __init__(self, again_s: float = _AGAIN_S) -> None:
        super().__init__()
        self._again_s = again_s
        self._lock = threading.Lock()
        self._told: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        error = _error_in(record)
        if error is None:
            return True
        now, kind = time.monotonic(), (str(record.msg), str(error))
        with self._lock:
            # Also those that are long over, or they would add up.
            self._told = {told: since for told, since in self._told.items() if now - since < self._again_s}
            new = kind not in self._told
            self._told.setdefault(kind, now)
        return new


def _error_in(record: logging.LogRecord) -> BaseException | None:
    given = record.args if isinstance(record.args, tuple) else ()
    happened = record.exc_info[1] if record.exc_info else None
    return next((each for each in (*given, happened) if isinstance(each, BaseException)), None)


def install() -> None:
    once = OnceAMinute()
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(once)
