"""Logs as JSON, an object a line, where M3AGIQA_LOG_FORMAT says so. They hold no prompt and no query of a URL."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import threading
import traceback
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TextIO

from m3agiqa.errors import M3AGIQAError
from worker.ops import steps

Format = Literal["text", "json"]

_ROOT = Path(__file__).resolve().parents[2]
#: Characters of a message at most.
_MESSAGE_CHARS = 8_000
#: A URL whose scheme is known, and what looks like a query without one.
_URL = re.compile(r"\b([A-Za-z][A-Za-z0-9+.-]{0,30}://)([^\s'\"<>]+)")
_QUERY = re.compile(r"\?[^\s'\"<>?=]*=[^\s'\"<>]*")


class JsonLines(logging.Formatter):
    """Writes a record as JSON: `time`, `level`, `logger` and `message`, and what is known of `request_id`, `stage`,
    `code`, `duration_s`, `error` and `traceback`.
    """

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": scrubbed(_bounded(_message(record))),
            **steps.told(),
            **_by_celery(record),
        }
        if "duration_s" in record.__dict__:
            line["duration_s"] = record.__dict__["duration_s"]
        if record.exc_info and record.exc_info[1] is not None:
            line |= _error(record.exc_info[1])
        # ASCII, so that no text of a stranger controls a terminal.
        return json.dumps({name: value for name, value in line.items() if value is not None})


def _message(record: logging.LogRecord) -> str:
    """Celery's line about a task that failed holds the error's words, which may hold anything: its class is enough."""
    if isinstance(record.args, dict) and "exc" in record.args and record.exc_info and record.exc_info[0]:
        return str(record.msg) % {**record.args, "exc": record.exc_info[0].__name__}
    return record.getMessage()


def _bounded(message: str) -> str:
    """A message that is not too long, cut at a blank, so that no URL is cut before its user ends."""
    return message if len(message) <= _MESSAGE_CHARS else message[:_MESSAGE_CHARS].rpartition(" ")[0] + " ..."


def _by_celery(record: logging.LogRecord) -> dict[str, Any]:
    """What Celery says of a task: its main thread works at none, and knows how long each took."""
    given = record.args
    if not record.name.startswith("celery.") or not isinstance(given, dict) or not isinstance(given.get("id"), str):
        return {}
    request_id, queue = steps.parts_of(given["id"])
    runtime_s = given.get("runtime")
    return {"request_id": request_id, "stage": queue, "duration_s": runtime_s if isinstance(runtime_s, float) else None}


def _error(error: BaseException) -> dict[str, Any]:
    """Messages of our own errors hold nothing private; others may hold anything, and so may lines of source."""
    kind = type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    return {
        "error": f"{kind}: {scrubbed(str(error))}" if isinstance(error, M3AGIQAError) else kind,
        "traceback": [f"{frame.filename.removeprefix(f'{_ROOT}/')}:{frame.lineno} {frame.name}" for frame in frames],
    }


def scrubbed(text: str) -> str:
    """`text` without user, query and fragment of the URLs in it."""
    return _QUERY.sub("?...", _URL.sub(lambda found: found[1] + _bare(found[2]), text))


def _bare(rest: str) -> str:
    """What follows a URL's scheme, without user, query and fragment."""
    kept = re.split(r"[?#]", rest, maxsplit=1)[0]
    host, slash, path = kept.partition("/")
    return host.rpartition("@")[2] + slash + path + ("?..." if len(kept) < len(rest) else "")


def are_json() -> bool:
    """Whether this process logs JSON by now."""
    return logging.lastResort is not None and isinstance(logging.lastResort.formatter, JsonLines)


def use_json_lines(logger: logging.Logger, **_: Any) -> None:
    """Have the handlers of a logger write JSON. Celery sends this its own loggers, once it has made their handlers."""
    for handler in logger.handlers:
        handler.setFormatter(JsonLines())


def start(format: Format) -> None:
    """Log to stderr from now on, in a process that is no worker of Celery."""
    handler = logging.StreamHandler()
    handler.setFormatter(
        JsonLines() if format == "json" else logging.Formatter("[%(asctime)s: %(levelname)s] %(message)s")
    )
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    if format == "json":
        replace_prints()


def replace_prints() -> None:
    """Have Python write JSON where it prints: warnings, errors that nobody caught, records that have no handler yet."""
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(JsonLines())
    warnings.showwarning = lambda message, category, *_, **__: say(f"{category.__name__}: {message}")
    logger = logging.getLogger(__name__)
    threading.excepthook = lambda told: logger.critical(
        "an error ended a thread", exc_info=(told.exc_type, told.exc_value or told.exc_type(), told.exc_traceback)
    )
    sys.excepthook = lambda kind, error, tb: logger.critical("an error ended the process", exc_info=(kind, error, tb))


def say(text: str, stream: TextIO | None = None) -> None:
    """Write a message as a line of JSON straight to its stream, also from the handler of a signal, where logging may
    wait for itself.
    """
    record = logging.LogRecord("celery", logging.WARNING, "", 0, text, None, None)
    os.write((stream or sys.stderr).fileno(), f"{JsonLines().format(record)}\n".encode())
