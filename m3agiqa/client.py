"""`Client`: submit images, wait for verdicts."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from pydantic import ValidationError

from m3agiqa import config
from m3agiqa.contract import Priority, ScoreRequest, Verdict
from m3agiqa.errors import NewerVersion, QueueFull, QueueUnavailable, RequestInvalid, ResultTimeout
from m3agiqa.queue import inbox, keys, overview
from m3agiqa.queue.cancelling import Cancelling
from m3agiqa.queue.connection import Connection
from m3agiqa.queue.dead import DeadLetter, DeadLetters
from m3agiqa.queue.overview import Overview
from m3agiqa.queue.state import State, history_of, state_of
from m3agiqa.quoting import quoted
from m3agiqa.tracing import traced

logger = logging.getLogger(__name__)

#: Requests that may wait before `submit` refuses more: some 500 MB of Redis, an hour's work of four GPUs.
MAX_QUEUED = 100_000
#: Seconds that a refused producer is told to wait at least and at most.
_RETRY_AFTER_S = (1.0, 60.0)
#: Requests that `submit_many` sends in one round trip.
_CHUNK = 500
#: Seconds after which `result` looks for the verdict although no announcement came.
_LOOK_AGAIN_S = 1.0

_Item = TypeVar("_Item")


class Client:
    """Submits images to the queue in Redis, and reads verdicts. Safe to share between threads.

    `submit` refuses while `max_queued` requests wait. `?namespace=NAME` at the end of `redis_url` is the namespace of
    the workers, their M3AGIQA_NAMESPACE; this class does not read that variable.

    Raises:
        ConfigError: `redis_url` is no Redis URL.
    """

    def __init__(self, redis_url: str, *, max_queued: int = MAX_QUEUED) -> None:
        self._connection = Connection(redis_url)
        self._key = self._connection.key
        self._dead = DeadLetters(self._connection)
        self._cancelling = Cancelling(self._connection)
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
        """Enqueue one image; returns its request id. `m3agiqa.contract.ScoreRequest` says what each field means.

        To submit a request again under its `request_id` is safe: it has one task and one verdict. The first request
        under an id stands; a different one under the same id becomes a dead letter.

        Raises:
            RequestInvalid: a field is wrong, or `refuse_unknown_policy` refuses it.
            QueueFull: too many requests wait; says when to come back.
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
        """Enqueue many images, 500 in a round trip; returns their request ids in order.

        Each is a ScoreRequest or a mapping of its fields. A wrong one ends the call; the round trips before its own are
        done by then.

        Raises:
            RequestInvalid: a field of a request is wrong, or `refuse_unknown_policy` refuses one.
            QueueFull: too many requests wait; says when to come back, and which were enqueued.
            QueueUnavailable: Redis cannot be reached; says how many requests were enqueued for certain.
        """
        ids: list[str] = []
        for chunk in _chunks(requests):
            parsed = [item if isinstance(item, ScoreRequest) else ScoreRequest.parse(dict(item)) for item in chunk]
            parsed = [traced(request) for request in parsed]
            for request in parsed:
                refuse_unknown_policy(request)
            try:
                with self._connection.redis() as redis:
                    room = max(0, self._max_queued - inbox.waiting(redis, self._key))
                    inbox.push(redis, parsed[:room], self._key, replicas=self._connection.replicas)
            except QueueUnavailable as error:
                raise QueueUnavailable(f"{error} ({len(ids)} enqueued before)") if ids else error from None
            ids += [request.request_id for request in parsed[:room]]
            if room < len(parsed):
                raise self._full(ids)
        return ids

    def _full(self, ids: list[str]) -> QueueFull:
        oldest_s = float(self._connection.call("get", self._key(keys.OLDEST)) or 0)
        # By then, workers have done about a tenth of what waits.
        wait_s = min(max(oldest_s / 10, _RETRY_AFTER_S[0]), _RETRY_AFTER_S[1])
        return QueueFull(
            f"{self._max_queued} requests wait already; come back in {wait_s:.0f} s ({len(ids)} enqueued)",
            retry_after_s=wait_s,
            submitted=ids,
        )

    def state(self, request_id: str) -> State | None:
        """Where a request is; None before a worker has taken it in, and when it is forgotten, long after it was
        settled.

        Raises:
            QueueUnavailable: Redis cannot be reached.
        """
        return state_of(self._connection, request_id)

    def history(self, request_id: str) -> tuple[str, ...]:
        """What happened to a request: a line for each event with its Unix time, the newest last.

        Raises:
            QueueUnavailable: Redis cannot be reached.
        """
        return history_of(self._connection, request_id)

    def result(self, request_id: str, timeout: float | None = None) -> Verdict:
        """Wait for a verdict, at most `timeout` seconds; None waits for ever, 0 only looks.

        Raises:
            ResultTimeout: no verdict within that time. It may still come, or may have expired.
            NewerVersion: the verdict is of a later version.
            QueueUnavailable: Redis cannot be reached.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._connection.redis() as redis, redis.pubsub() as announced:  # type: ignore[no-untyped-call]
            # Subscribed before the first look, so that no announcement between the two is missed.
            announced.subscribe(self._key(keys.done(request_id)))
            while True:
                if (found := redis.get(self._key(keys.result(request_id)))) is not None:
                    return _read(str(found), request_id)
                left = _LOOK_AGAIN_S if deadline is None else min(_LOOK_AGAIN_S, deadline - time.monotonic())
                if left <= 0:
                    raise ResultTimeout(
                        f"no verdict for {request_id} within {timeout} s; is a worker running, and was it submitted?"
                    )
                announced.get_message(timeout=left)

    def results(self) -> Iterator[Verdict]:
        """Every verdict that is in Redis now, in no particular order.

        Raises:
            QueueUnavailable: Redis cannot be reached.
        """
        with self._connection.redis() as redis:
            # A set, because a scan may name a key twice.
            for page in _chunks(set(redis.scan_iter(match=self._key(keys.RESULTS), count=_CHUNK))):
                for name, found in zip(page, redis.mget(page), strict=True):
                    if found is None:  # it expired since
                        continue
                    try:
                        yield Verdict.model_validate_json(found)
                    except ValidationError:
                        logger.warning("%s cannot be read, and is left out", quoted(name, 200))

    def dead_letters(self) -> Iterator[DeadLetter]:
        """What workers gave up, the newest first. The log names dead letters that cannot be read.

        Raises:
            QueueUnavailable: Redis cannot be reached.
        """
        yield from self._dead.all()

    def dead_letter_ids(self) -> list[str]:
        """Ids of all dead letters, also of those that cannot be read.

        Raises:
            QueueUnavailable: Redis cannot be reached.
        """
        return [str(letter_id) for letter_id in self._connection.call("hkeys", self._key(keys.DEAD))]

    def dead_letter(self, letter_id: str) -> DeadLetter:
        """One dead letter.

        Raises:
            UsageError: there is no such dead letter, or it cannot be read.
            QueueUnavailable: Redis cannot be reached.
        """
        return self._dead.get(letter_id)

    def replay(self, letter: DeadLetter) -> bool:
        """Put a dead letter back, with as many attempts as a new one. False if it is no dead letter any more.

        Raises:
            UsageError: it was not kept whole, its request was answered meanwhile, or its request is forgotten.
            QueueUnavailable: Redis cannot be reached.
        """
        return self._dead.replay(letter)

    def drop(self, letter_id: str) -> bool:
        """Forget a dead letter, even one that cannot be read. False if there is none of this id.

        Raises:
            QueueUnavailable: Redis cannot be reached.
        """
        return self._dead.drop(letter_id)

    def cancel(self, request_id: str) -> bool:
        """Take a request back: it is answered with code `revoked`. False if it was answered before.

        Raises:
            UsageError: no request has this id.
            QueueUnavailable: Redis cannot be reached, or forbids this user to.
        """
        return self._cancelling.cancel(request_id)

    def purge(self) -> Iterator[str]:
        """Take back every request that waits for its score now. Yields the id of each once it is answered.

        Raises:
            QueueUnavailable: Redis cannot be reached, or forbids this user to.
        """
        yield from self._cancelling.purge()

    def overview(self) -> Overview:
        """How the queue is now: what waits, who works, and how often what happened.

        Raises:
            QueueUnavailable: Redis cannot be reached, or forbids this user to look.
        """
        return overview.read(self._connection)

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def refuse_unknown_policy(request: ScoreRequest) -> None:
    """Refuse a request whose policy the workers cannot find, where M3AGIQA_CONFIG_DIR names their folder here as well.

    Elsewhere, only a worker knows the operator's policies: it answers with a failure.

    Raises:
        RequestInvalid: there is no such policy.
    """
    own = os.environ.get(config.OWN_DIR)
    if request.policy is None or not own or not os.access(Path(own) / "policies", os.R_OK | os.X_OK):
        return
    if config.named("policies", request.policy) is None:
        known = ", ".join(config.names("policies"))
        raise RequestInvalid(f"policy: there is no {quoted(request.policy)}; one of: {known}")


def _read(text: str, request_id: str) -> Verdict:
    try:
        return Verdict.model_validate_json(text)
    except ValidationError:
        raise NewerVersion(f"the verdict of {quoted(request_id)} cannot be read by this version") from None


def _chunks(items: Iterable[_Item]) -> Iterator[list[_Item]]:
    rest = iter(items)
    while chunk := list(islice(rest, _CHUNK)):
        yield chunk
