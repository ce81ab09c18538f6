from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery

from worker.app import app


class Wire:
    """Takes what is published; meanwhile a task's thread announces something."""

    def __init__(self) -> None:
        self.dispatcher: Any = None
        self.published: list[str] = []
        self.events: list[dict[str, Any]] = []

    def publish(self, events: list[dict[str, Any]], **_: Any) -> None:
        self.published += [event["type"] for event in events]
        self.events += events
        if len(self.published) == 1:
            self.dispatcher.send("task-started", uuid="x")


@pytest.fixture
def wire() -> Iterator[Wire]:
    """The dispatcher of our application, with its buffer as in a worker, and what it publishes on."""
    with Celery(broker="memory://", set_as_current=False, events=app.events_cls) as other:
        wire = Wire()
        wire.dispatcher = other.events.Dispatcher(
            other.connection_for_write(), buffer_group=["task"], on_send_buffered=lambda: None
        )
        wire.dispatcher.producer = wire
        yield wire


def test_what_is_announced_while_others_are_published_is_not_lost(wire: Wire) -> None:
    # when an event is added while the buffer is published
    wire.dispatcher.send("task-received", uuid="x")
    wire.dispatcher.flush()
    wire.dispatcher.flush()
    # then both are published, each once
    assert wire.published == ["task-received", "task-started"]
    wire.dispatcher.flush()
    assert wire.published == ["task-received", "task-started"]


def test_of_an_exception_nothing_is_announced_but_its_name(wire: Wire) -> None:
    wire.dispatcher.send("task-failed", uuid="x", exception="ValueError('a prompt (secret)')", traceback="a prompt")
    wire.dispatcher.flush()
    event = wire.events[0]
    assert (event["type"], event["uuid"], event["exception"]) == ("task-failed", "x", "ValueError")
    assert "prompt" not in str(event)
