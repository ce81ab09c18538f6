"""What the worker keeps in Redis: verdicts, what is due later, and what it gave up."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

from m3agiqa.contract import ScoreRequest, Verdict
from m3agiqa.errors import QueueUnavailable
from producers import keys, message
from producers.connection import connect, translated
from producers.dead import DeadLetter
from worker.deliver import Delivery
from worker.settings import Settings

logger = logging.getLogger(__name__)

#: About a minute: work already done is worth waiting for a Redis that restarts.
_RETRIES = 60
#: Due messages moved by one run of the script, which blocks Redis meanwhile.
_MOVED_AT_ONCE = 100
#: Between the target list and the message in a member of the due set; neither holds one.
_CUT = "\n"

#: The server's clock decides what is due: workers' clocks differ.
_NOW = "local time = redis.call('TIME'); local now = time[1] + time[2] / 1000000\n"
_ADD_DUE = _NOW + "return redis.call('ZADD', KEYS[1], now + ARGV[1], ARGV[2])"
_MOVE_DUE = (
    _NOW
    + """
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])
for _, member in ipairs(due) do
    local cut = string.find(member, '\\n', 1, true)
    redis.call('LPUSH', string.sub(member, 1, cut - 1), string.sub(member, cut + 1))
    redis.call('ZREM', KEYS[1], member)
end
return #due
"""
)


class Store:
    """Safe to share between threads. Every method raises QueueUnavailable if Redis stays away for about a minute."""

    def __init__(self, settings: Settings) -> None:
        self._url = settings.redis_url.get_secret_value()
        self._redis = connect(self._url, retries=_RETRIES)
        self._result_ttl_s = settings.result_ttl_s
        self._add_due = self._redis.register_script(_ADD_DUE)
        self._move_due = self._redis.register_script(_MOVE_DUE)

    def publish(self, verdict: Verdict, deliveries: Sequence[Delivery]) -> None:
        """Keep a verdict, announce it and enqueue its deliveries: all of it or nothing."""
        with translated(self._url), self._redis.pipeline(transaction=True) as pipe:
            pipe.set(keys.result(verdict.request_id), verdict.model_dump_json(), ex=self._result_ttl_s)
            for delivery in deliveries:
                pipe.lpush(message.list_key(keys.DELIVER_QUEUE), deliver_message(delivery))
            pipe.publish(keys.done(verdict.request_id), "")
            pipe.execute()

    def score_later(self, request: ScoreRequest, *, retries: int, delay_s: float) -> None:
        """Have a picture scored again in `delay_s` seconds; `retries` counts the attempts until then."""
        target = message.list_key(keys.SCORE_QUEUE, request.priority)
        self._later(target, message.score_message(request, retries=retries), delay_s)

    def deliver_later(self, delivery: Delivery, *, delay_s: float) -> None:
        self._later(message.list_key(keys.DELIVER_QUEUE), deliver_message(delivery), delay_s)

    def _later(self, target: str, envelope: str, delay_s: float) -> None:
        with translated(self._url):
            self._add_due(keys=[keys.DUE], args=[delay_s, target + _CUT + envelope])

    def move_due(self) -> int:
        """Put what is due on its queue; returns how many were, 100 at most. Each goes once, however many call."""
        with translated(self._url):
            return int(self._move_due(keys=[keys.DUE], args=[_MOVED_AT_ONCE]))

    def bury(self, letter: DeadLetter) -> None:
        with translated(self._url):
            self._redis.lpush(keys.DEAD, letter.model_dump_json())

    def close(self) -> None:
        self._redis.close()


def deliver_message(delivery: Delivery) -> str:
    """The message that asks for a verdict to be delivered to one place."""
    return message.envelope(
        keys.DELIVER_QUEUE,
        delivery.model_dump(mode="json"),
        task_id=f"{delivery.request_id}.{delivery.kind}",
        parent_id=delivery.request_id,
        retries=delivery.attempt - 1,
    )


class Poller:
    """A thread that puts what is due on its queue. Any number of workers may run one."""

    def __init__(self, store: Store, *, interval_s: float = 0.5) -> None:
        self._store = store
        self._interval_s = interval_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="poller", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        redis_is_away = False
        while not self._stopping.wait(self._interval_s):
            try:
                while self._store.move_due() == _MOVED_AT_ONCE:
                    pass
                redis_is_away = False
            except QueueUnavailable as error:
                if not redis_is_away:  # once for each time it goes
                    logger.warning("nothing becomes due meanwhile: %s", error)
                redis_is_away = True

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def stop(self) -> None:
        """Stop within a few seconds, even while Redis is away."""
        self._stopping.set()
        self._thread.join(timeout=5)
