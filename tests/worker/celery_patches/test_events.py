from __future__ import annotations

from typing import Any

from celery import Celery

from worker.app import app


class Wire:
    """Takes what is published; meanwhile a task's thread announces something."""

    def __init__(self) -> None:
        self.dispatcher: Any = None
        self.published: list[str] = []

    def publish(self, events: list[dict[str, Any]], **_: Any) -> None:
        self.published += [event["type"] for event in events]
        if len(self.published) == 1:
            self.dispatcher.send("task-started", uuid="x")


def test_what_is_announced_while_others_are_published_is_not_lost() -> None:
    # given the dispatcher of our application, with its buffer as in a worker
    with Celery(broker="memory://", set_as_current=False, events=app.events_cls) as other:
        wire = Wire()
        dispatcher = other.events.Dispatcher(
            other.connection_for_write(), buffer_group=["task"], on_send_buffered=lambda: None
        )
        wire.dispatcher = dispatcher
        dispatcher.producer = wire
        # when an event is added while the buffer is published
        dispatcher.send("task-received", uuid="x")
        dispatcher.flush()
        dispatcher.flush()
        # then both are published, each once
        assert wire.published == ["task-received", "task-started"]
        dispatcher.flush()
        assert wire.published == ["task-received", "task-started"]
