"""Names in Redis and on the queue, shared by those who submit and those who work."""

from __future__ import annotations

SCORE_QUEUE = "score"
DELIVER_QUEUE = "deliver"
SCORE_TASK = "m3agiqa.score"
DELIVER_TASK = "m3agiqa.deliver"

#: Sorted set: what is to be queued later, by its due time in seconds of the Redis server's clock.
DUE = "m3agiqa:due"
#: List: what was given up, newest first, one JSON object each.
DEAD = "m3agiqa:dead"

_RESULT = "m3agiqa:result:"
#: Glob over every key that `result` gives.
RESULTS = _RESULT + "*"


def result(request_id: str) -> str:
    """Key of the verdict, as JSON, with a time to live."""
    return _RESULT + request_id


def done(request_id: str) -> str:
    """Channel on which the verdict's arrival is announced; the message has no content."""
    return f"m3agiqa:done:{request_id}"
