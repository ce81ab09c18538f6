"""`Client`: submit pictures, wait for verdicts."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice
from types import TracebackType
from typing import Any, Self, TypeVar

from m3agiqa.contract import Priority, ScoreRequest, Verdict
from m3agiqa.errors import QueueFull, QueueUnavailable, RequestInvalid, ResultTimeout
from producers import keys
from producers.connection import connect, translated
from producers.dead import DeadLetter
from producers.ledger import Ledger, State

#: Requests that may wait before `submit` refuses more: some 500 MB of Redis, an hour's work of four GPUs.
MAX_QUEUED = 100_000
#: Seconds. What a producer that was refused is told to wait, at least and at most.
_RETRY_AFTER_S = (1.0, 60.0)
#: Messages sent in one round trip by `submit_many`.
_CHUNK = 500
#: Seconds after which the verdict is looked for although nobody announced it.
_LOOK_AGAIN_S = 1.0

_Item = TypeVar("_Item")


class Client:
    """Submits pictures to the queue in Redis; safe to share between threads.

    `max_queued` requests may wait; beyond them `submit` refuses.

    Raises:
        ConfigError: `redis_url` is no Redis URL.
    """

    def __init__(self, redis_url: str, *, max_queued: int = MAX_QUEUED) -> None:
        self._url = redis_url
        self._redis = connect(redis_url)
        self._ledger = Ledger(self._redis)
        self._max_queued = max_queued

    def submit(
        self,
        *,
        image_url: str,
        prompt: str,
        callback_url: str | None = None,
        s3_uri: str | None = None,
        aspects: Sequence[str] | None = None,
        policy: str | None = None,
        priority: Priority = 3,
        request_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        expires_at: datetime | None = None,
    ) -> str:
        """Enqueue one picture; returns its request id. `m3agiqa.contract.ScoreRequest` says what each field means.

        A `request_id` that was submitted before is returned like a new one, and the first request stands: there is one
        task, and one verdict.

        Raises:
            RequestInvalid: a field is wrong.
            QueueFull: too many wait already; says when to come back.
            QueueUnavailable: Redis cannot be reached; submitting again with the same `request_id` is safe.
        """
        fields = {
            "image_url": image_url,
            "prompt": prompt,
            "callback_url": callback_url,
            "s3_uri": s3_uri,
            "aspects": aspects,
            "policy": policy,
            "priority": priority,
            "request_id": request_id,
            "metadata": metadata,
            "expires_at": expires_at,
        }
        return self.submit_many([{name: value for name, value in fields.items() if value is not None}])[0]

    def submit_many(self, requests: Iterable[ScoreRequest | Mapping[str, Any]]) -> list[str]:
        """Enqueue many pictures, 500 in a round trip; returns their request ids in order.

        Each is a ScoreRequest or a mapping of its fields. A wrong one stops the call: the chunks before its own are
        enqueued by then.

        Raises:
            RequestInvalid: a field of a request is wrong.
            QueueFull: too many wait already; says when to come back, and which were enqueued.
            QueueUnavailable: Redis cannot be reached; says how many were enqueued for certain.
        """
        ids: list[str] = []
        for chunk in _chunks(requests):
            parsed = [item if isinstance(item, ScoreRequest) else ScoreRequest.parse(dict(item)) for item in chunk]
            try:
                with translated(self._url):
                    taken = self._ledger.submit(parsed, self._max_queued)
            except QueueUnavailable as error:
                raise QueueUnavailable(f"{error} ({len(ids)} enqueued before)") if ids else error from None
            ids += [request.request_id for request in parsed[: taken.count]]
            if taken.count < len(parsed):
                # By then about a tenth of those that wait is done.
                wait_s = min(max(taken.oldest_s / 10, _RETRY_AFTER_S[0]), _RETRY_AFTER_S[1])
                raise QueueFull(
                    f"{self._max_queued} requests wait already; come back in {wait_s:.0f} s ({len(ids)} enqueued)",
                    retry_after_s=wait_s,
                    submitted=ids,
                )
        return ids

    def state(self, request_id: str) -> State | None:
        """Where a request is; None if it was never submitted, or so long ago that it is forgotten.

        Raises:
            QueueUnavailable: Redis cannot be reached.
        """
        with translated(self._url):
            return self._ledger.state(request_id)

    def history(self, request_id: str) -> tuple[str, ...]:
        """What happened to a request: a line an event, each with its Unix time, the newest last.

        Raises:
            QueueUnavailable: Redis cannot be reached.
        """
        with translated(self._url):
            return self._ledger.history(request_id)

    def result(self, request_id: str, timeout: float | None = None) -> Verdict:
        """Wait for a verdict, at most `timeout` seconds; None waits for ever, 0 only looks.

        Raises:
            ResultTimeout: no verdict within that time; it may still come. Verdicts also expire.
            QueueUnavailable: Redis cannot be reached.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        with translated(self._url), self._redis.pubsub() as announced:  # type: ignore[no-untyped-call]
            # Subscribed before the first look: an announcement between the two is not missed.
            announced.subscribe(keys.done(request_id))
            while True:
                if (found := self._redis.get(keys.result(request_id))) is not None:
                    return Verdict.model_validate_json(found)
                left = _LOOK_AGAIN_S if deadline is None else min(_LOOK_AGAIN_S, deadline - time.monotonic())
                if left <= 0:
                    raise ResultTimeout(
                        f"no verdict for {request_id} within {timeout} s; is a worker running, and was it submitted?"
                    )
                announced.get_message(timeout=left)

    def results(self) -> Iterator[Verdict]:
        """Every verdict that is in Redis now, in no order.

        Raises:
            QueueUnavailable: Redis cannot be reached.
        """
        with translated(self._url):
            # A set, because a scan may name a key twice.
            for page in _chunks(set(self._redis.scan_iter(match=keys.RESULTS, count=_CHUNK))):
                for found in self._redis.mget(page):
                    if found is not None:  # it expired since
                        yield Verdict.model_validate_json(found)

    def dead_letters(self) -> Iterator[DeadLetter]:
        """Every message that workers gave up, the newest first.

        Raises:
            QueueUnavailable: Redis cannot be reached.
        """
        with translated(self._url):
            letters = [DeadLetter.model_validate_json(letter) for letter in self._redis.hvals(keys.DEAD)]
        yield from sorted(letters, key=lambda letter: letter.died_at, reverse=True)

    def dead_letter(self, letter_id: str) -> DeadLetter:
        """One message that workers gave up.

        Raises:
            RequestInvalid: there is no such dead letter.
            QueueUnavailable: Redis cannot be reached.
        """
        with translated(self._url):
            found = self._redis.hget(keys.DEAD, letter_id)
        if found is None:
            raise RequestInvalid(f"no dead letter {letter_id}; `m3agiqa-submit dead list` shows those there are")
        return DeadLetter.model_validate_json(found)

    def replay(self, letter: DeadLetter) -> bool:
        """Put a dead letter back on its queue, with all its attempts; False if it is no dead letter any more.

        Raises:
            RequestInvalid: only the beginning of its message was kept.
            QueueUnavailable: Redis cannot be reached.
        """
        if letter.cut:
            raise RequestInvalid(f"dead letter {letter.id} was too large to keep; it can only be dropped")
        with translated(self._url):
            return self._ledger.replay(letter)

    def drop(self, letter: DeadLetter) -> bool:
        """Forget a dead letter; False if it is none any more.

        Raises:
            QueueUnavailable: Redis cannot be reached.
        """
        with translated(self._url):
            return self._ledger.drop(letter)

    def close(self) -> None:
        self._redis.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _chunks(items: Iterable[_Item]) -> Iterator[list[_Item]]:
    rest = iter(items)
    while chunk := list(islice(rest, _CHUNK)):
        yield chunk
