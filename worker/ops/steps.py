"""What a thread works at: which request, which stage of it, and the code of its latest failure. Logs tell all three,
and spans where they are made.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from m3agiqa.contract import Failure
from m3agiqa.queue import keys
from worker.ops import tracing

logger = logging.getLogger(__name__)

_request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
_stage: ContextVar[str | None] = ContextVar("stage", default=None)
_code: ContextVar[str | None] = ContextVar("code", default=None)


def parts_of(task: str) -> tuple[str, str]:
    """The id of a task's request, and the queue that the task belongs to."""
    request_id, _, kind = task.partition(":")
    return request_id, keys.DELIVER_QUEUE if kind else keys.SCORE_QUEUE


def begin(task: str) -> None:
    """Say that this thread works at a task until `end`. Celery's own lines about a task lie between the two as well."""
    request_id, queue = parts_of(task)
    _request_id.set(request_id)
    _stage.set(queue)
    _code.set(None)


def end() -> None:
    for variable in (_request_id, _stage, _code):
        variable.set(None)


def failed(failure: Failure | None) -> None:
    """Note why the task at hand fails; None notes nothing."""
    if failure is not None:
        _code.set(failure.code)
        tracing.failed(failure.code)


@contextmanager
def step(name: str) -> Iterator[None]:
    """Be at a stage of the task inside the block."""
    before, began = _stage.set(name), time.perf_counter()
    try:
        with tracing.span(name):
            yield
    finally:
        duration_s = time.perf_counter() - began
        logger.debug("%s took %.3f s", name, duration_s, extra={"duration_s": duration_s})
        _stage.reset(before)


def told() -> dict[str, str | None]:
    """What this thread works at, by the names of the log's fields."""
    return {"request_id": _request_id.get(), "stage": _stage.get(), "code": _code.get()}
