"""Keeps Celery 5.6 from losing events between threads.

Its dispatcher publishes a buffer and then empties it: an event that a task's thread adds in between is lost, and Flower
may show that task as running for ever.

It also announces an exception's words, which may hold a prompt or a URL, and Flower keeps them. This one announces the
exception's name; the worker's log has the rest.
"""

from __future__ import annotations

from typing import Any

from celery.app import events
from celery.events.dispatcher import EventDispatcher


class Dispatcher(EventDispatcher):  # type: ignore[misc]
    def send(self, type: str, *args: Any, **fields: Any) -> None:
        if "exception" in fields:
            fields |= {"exception": fields["exception"].partition("(")[0], "traceback": None}
        super().send(type, *args, **fields)

    def flush(self, errors: bool = True, groups: bool = True) -> None:
        super().flush(errors, groups=False)
        if not groups:
            return
        with self.mutex:
            for group, waiting in list(self._group_buffer.items()):
                if batch := waiting[:]:
                    self._publish(batch, self.producer, f"{group}.multi")
                    del waiting[: len(batch)]


class Events(events.Events):  # type: ignore[misc]
    dispatcher_cls = f"{__name__}:{Dispatcher.__name__}"
