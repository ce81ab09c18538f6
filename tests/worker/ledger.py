"""What tests of the ledger share: requests, and the passing of time."""

from __future__ import annotations

from datetime import UTC, datetime

from redis import Redis

from m3agiqa.contract import ScoreRequest
from producers import keys, message
from producers.dead import DeadLetter
from worker.deliver import Delivery
from worker.store import Lease, Store

#: Where `request` is queued.
LIST = "score:6"


def request(name: str = "r") -> ScoreRequest:
    return ScoreRequest(image_url="https://host/a.png", prompt="two\nlines", request_id=name, priority=6)


def delivery(name: str = "r", attempt: int = 1, kind: str = "callback") -> Delivery:
    return Delivery(
        request_id=name,
        kind=kind,
        url="https://host/hook",
        body='{"a": "ü"}',
        submitted_at=datetime.now(UTC),
        attempt=attempt,
    )


def begin(store: Store, name: str = "r") -> Lease:
    return store.begin_score(request(name), request(name).model_dump(mode="json"), retries=0)


def begin_again(store: Store, redis: Redis) -> Lease:
    """Let so much time pass that the request comes again, whatever became of its last run, and take it."""
    for _ in range(2):  # a lease, and being kept apart from others
        pass_time(redis, 2000)
        store.sweep()
    return begin(store)


def letter(name: str = "r", task: str | None = None) -> DeadLetter:
    raw = message.score_message(request(name))
    return DeadLetter(
        queue="score", request_id=name, kind="message", code="c", reason="why", attempts=1, task=task, message=raw
    )


def pass_time(redis: Redis, seconds: float, *tasks: str) -> None:
    """Let `seconds` pass for what is owed: every time in the ledger lies so much further back."""
    for task in tasks or redis.zrange(keys.OWED, 0, -1):
        redis.zincrby(keys.OWED, -seconds, task)


def taken(redis: Redis, key: str = LIST) -> str:
    """The request a worker takes next from a list, and gets lost with."""
    return message.parse(redis.rpop(key), key.partition(":")[0]).task_id
