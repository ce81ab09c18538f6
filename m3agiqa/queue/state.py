"""Reads from the ledger where a request is, and what happened to it."""

from __future__ import annotations

from enum import StrEnum

from m3agiqa.queue import keys
from m3agiqa.queue.connection import Connection


class State(StrEnum):
    """Where a request is on its way."""

    SUBMITTED = "submitted"
    FETCHING = "fetching"
    SCORING = "scoring"
    #: The verdict is there, and its deliveries are queued.
    SCORED = "scored"
    DELIVERING = "delivering"
    #: Nothing is owed any more.
    SETTLED = "settled"
    #: Taken back before it was scored; nothing is owed any more.
    CANCELLED = "cancelled"
    #: Given up: a dead letter says why.
    DEAD = "dead"


def state_of(connection: Connection, name: str) -> State | None:
    """Where a request is; None if the ledger does not know it. Raises QueueUnavailable as `Connection` does."""
    found = connection.call("hget", connection.key(keys.request(name)), "state")
    return known_state(found)


def known_state(text: object) -> State | None:
    """The state that an entry names; None if it names none, or one of a later version."""
    return State(text) if isinstance(text, str) and text in list(State) else None


def history_of(connection: Connection, name: str) -> tuple[str, ...]:
    """A line for each event of a request, with its Unix time, the newest last. Raises QueueUnavailable as `Connection`
    does.
    """
    found = connection.call("hget", connection.key(keys.request(name)), "history")
    return tuple(str(found or "").splitlines())
