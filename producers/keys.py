"""Names in Redis and on the queue, shared by those who submit and those who work."""

from __future__ import annotations

SCORE_QUEUE = "score"
DELIVER_QUEUE = "deliver"
SCORE_TASK = "m3agiqa.score"
DELIVER_TASK = "m3agiqa.deliver"

#: Sorted set: every task that is owed, by when to look after it, in seconds of the Redis server's clock.
OWED = "m3agiqa:owed"
#: Sorted set: tasks whose entries in the ledger nobody can read, by when they were set aside.
UNREAD = "m3agiqa:unread"
#: Hash: what was given up, one JSON object each, by its id.
DEAD = "m3agiqa:dead"

_SCORES = "m3agiqa:scores:"
_RESULT = "m3agiqa:result:"
#: Glob over every key that `result` gives.
RESULTS = _RESULT + "*"


def request(request_id: str) -> str:
    """Key of the request's entry in the ledger."""
    return f"m3agiqa:request:{request_id}"


def result(request_id: str) -> str:
    """Key of the verdict, as JSON, with a time to live."""
    return _RESULT + request_id


def done(request_id: str) -> str:
    """Channel on which the verdict's arrival is announced; the message has no content."""
    return f"m3agiqa:done:{request_id}"


def scores(key: str) -> str:
    """Key of what the model said about a picture with a prompt, as JSON, with a time to live."""
    return _SCORES + key
