"""Helpers of the queue's tests: requests, workers that get lost, and the passing of time."""

from __future__ import annotations

from collections.abc import Callable

from redis import Redis

from m3agiqa.contract import ScoreRequest
from m3agiqa.queue import inbox, keys
from m3agiqa.queue.claim import Claim
from m3agiqa.queue.dead import DeadLetter
from m3agiqa.queue.ledger import Ledger
from tests.support_verdicts import verdict

#: Where the name of `request` is queued.
LIST = "score:6"

_PLACES = {"callback": {"callback_url": "https://host/hook"}, "s3": {"s3_uri": "s3://out/verdicts"}}

#: Ways in which a worker may end a claim.
ENDS: dict[str, Callable[[Claim], object]] = {
    "postpone": lambda claim: claim.postpone(0, why="c"),
    "release": lambda claim: claim.release(why="c"),
    "abandon": lambda claim: claim.abandon(why="c"),
    "bury": lambda claim: claim.bury(ValueError()),
    "mark": Claim.mark_scoring,
    "publish": lambda claim: claim.publish(verdict(claim.task)),
}


def request(name: str = "r", *places: str) -> ScoreRequest:
    """A request whose verdict goes to `places`: "callback", "s3"."""
    fields = {field: value for place in places for field, value in _PLACES[place].items()}
    return ScoreRequest(image_url="https://host/a.png", prompt="two\nlines", request_id=name, priority=6, **fields)


def owe(ledger: Ledger, redis: Redis, *requests: ScoreRequest) -> None:
    """Submit requests, and have them admitted."""
    inbox.push(redis, requests)
    while ledger.admit(6):
        pass


def begin(ledger: Ledger, task: str = "r") -> Claim:
    """Take a task; whoever does nothing about it is lost with it."""
    with ledger.claim(task) as claim:
        return claim


def begin_again(ledger: Ledger, redis: Redis, task: str = "r") -> Claim:
    """Let so much time pass that the task comes again, whatever became of its last run, and take it."""
    for _ in range(2):  # a lease, and being kept apart from others
        pass_time(redis, 2000)
        ledger.sweep()
    return begin(ledger, task)


def publish(ledger: Ledger, redis: Redis, name: str = "r", *places: str) -> None:
    """Have a request scored whose verdict goes to `places`."""
    owe(ledger, redis, request(name, *places))
    assert begin(ledger, name).publish(verdict(name))


def pass_time(redis: Redis, seconds: float, *tasks: str) -> None:
    """Let `seconds` pass for what is owed: every time in the ledger lies so much further back."""
    for task in tasks or redis.zrange(keys.OWED, 0, -1):
        redis.zincrby(keys.OWED, -seconds, task)


def taken(redis: Redis, key: str = LIST) -> str:
    """The name a worker takes next from a list, and gets lost with."""
    return str(redis.rpop(key))


def waiting(redis: Redis, priority: int = 6, tenant: str | None = None) -> list[str]:
    """Names on a list, and then in a tenant's lane behind it, the next one first."""
    places = (keys.wakeups(keys.SCORE_QUEUE, priority), keys.lane(priority, tenant))
    return [str(name) for place in places for name in reversed(redis.lrange(place, 0, -1))]


def letters(redis: Redis) -> list[DeadLetter]:
    """Every dead letter, the oldest first."""
    return [
        DeadLetter.model_validate_json(redis.hget(keys.DEAD, name)) for name in redis.zrange(keys.DEAD_ORDER, 0, -1)
    ]


def traces(redis: Redis, *canaries: str) -> list[str]:
    """Keys that hold a canary, in their names or what they hold."""
    read = {
        "string": redis.get,
        "list": lambda key: redis.lrange(key, 0, -1),
        "hash": redis.hgetall,
        "zset": lambda key: redis.zrange(key, 0, -1),
        "set": redis.smembers,
        # It went since it was listed.
        "none": str,
    }
    return [
        key
        for key in redis.scan_iter(count=1000)
        if any(canary in f"{key} {read[redis.type(key)](key)}" for canary in canaries)
    ]
