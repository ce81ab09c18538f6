"""Keeps Celery 5.6 from losing events between threads.

Its dispatcher publishes a buffer and then empties it: an event that a task's thread adds in between is lost, and Flower
may show that task as running for ever.
"""

from __future__ import annotations

from celery.app import events
from celery.events.dispatcher import EventDispatcher


class Dispatcher(EventDispatcher):  # type: ignore[misc]
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
