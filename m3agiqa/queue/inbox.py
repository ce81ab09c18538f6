"""The inbox: producers write entries, and workers admit them as tasks.

    producer ──LPUSH──▶ m3agiqa:inbox:N ──admit──┬─ new ─▶ the ledger, and its name on the score queue
                                                 ├─ a known request once more ─▶ gone, or tried anew if it failed
                                                 ├─ beyond its tenant's limits ─▶ a verdict that says so
                                                 ├─ another one under a known id, malformed, too large ─▶ dead letter
                                                 └─ of a later version ─▶ m3agiqa:newer:N

An entry is a `ScoreRequest` as JSON. Its list decides its priority, even if the entry names another. A worker peeks at
the next entries, judges them, and moves them by one script, which moves no entry that another worker has taken
meanwhile. So no crash loses an entry or doubles one.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby

from pydantic import ValidationError
from redis import Redis

from m3agiqa.contract import Decision, Failure, ScoreRequest, Verdict
from m3agiqa.errors import NewerVersion, QueueUnavailable, RequestInvalid
from m3agiqa.queue import keys
from m3agiqa.queue.connection import Connection
from m3agiqa.queue.dead import KEPT_CHARS, DeadLetter
from m3agiqa.tenants import FREE, Tenants

logger = logging.getLogger(__name__)

#: Bytes of an entry at most: more than the largest request that the contract allows, with every character escaped.
MAX_ENTRY_BYTES = 1_048_576
#: Entries and bytes that are peeked at together.
_ENTRIES, _BYTES = 100, 4 * MAX_ENTRY_BYTES
#: Milliseconds that replicas have to take a request.
_REPLICAS_MS = 5_000
#: Entries that are moved together behind a conflict: more conflicts may follow, and all behind one are sent again.
_AFTER_CONFLICT = 5

#: Lists on which requests wait.
_WAITING = [name for step in keys.PRIORITIES for name in (keys.inbox(step), keys.wakeups(keys.SCORE_QUEUE, step))]
#: Values for fields that an invalid request lacks.
_UNKNOWN = {"image_url": "https://unknown.invalid", "prompt": ""}


def push(redis: Redis, requests: Sequence[ScoreRequest], key: Callable[[str], str] = str, *, replicas: int = 0) -> None:
    """Push requests on the inbox, with one LPUSH for each run of equal priorities. Raises what redis-py raises.

    `key` puts a namespace in front of a name.

    Raises:
        QueueUnavailable: fewer than `replicas` replicas took them within some seconds. They may still be scored.
    """
    with redis.pipeline(transaction=False) as pipeline:
        for priority, group in groupby(requests, key=lambda request: request.priority):
            pipeline.lpush(key(keys.inbox(priority)), *(request.to_json() for request in group))
        if replicas:
            pipeline.wait(replicas, _REPLICAS_MS)
        *_, reached = pipeline.execute() or [0]
    if requests and reached < replicas:
        raise QueueUnavailable(f"{reached} of {replicas} replicas took the requests; submit them again under their ids")


def waiting(redis: Redis, key: Callable[[str], str] = str) -> int:
    """The number of requests that no worker has begun. Raises what redis-py raises. `key` as in `push`."""
    return look(redis, (), key)[0]


def look(
    redis: Redis, requests: Sequence[ScoreRequest], key: Callable[[str], str] = str
) -> tuple[int, list[ScoreRequest]]:
    """The number of requests that no worker has begun, and those of `requests` whose ids stand for other ones, in one
    round trip. Who may not read the ledger finds none of them. Raises what redis-py raises. `key` as in `push`.
    """
    with redis.pipeline(transaction=False) as pipeline:
        for name in _WAITING:
            pipeline.llen(key(name))
        for priority in keys.PRIORITIES:
            pipeline.hgetall(key(keys.lanes(priority)))
        for request in requests:
            pipeline.hget(key(keys.request(request.name)), "content")
        found = pipeline.execute(raise_on_error=False)
    lanes_at, contents_at = len(_WAITING), len(_WAITING) + len(keys.PRIORITIES)
    lengths, lanes, contents = found[:lanes_at], found[lanes_at:contents_at], found[contents_at:]
    for length in lengths:
        if isinstance(length, Exception):
            raise length
    # A user with rights of before there were lanes counts none.
    waiting = sum(lengths) + sum(sum(lengths_of(told).values()) for told in lanes if isinstance(told, dict))
    standing = zip(requests, contents, strict=True)
    return waiting, [one for one, content in standing if isinstance(content, str) and content != one.fingerprint]


def lengths_of(told: Mapping[str, str]) -> dict[str, int]:
    """How many names wait in the lane of each tenant, "" without one, of a hash `keys.lanes`."""
    return {tenant: int(length) for tenant, length in told.items() if re.fullmatch("[0-9]{1,12}", length)}


def parse(text: str, priority: int) -> ScoreRequest:
    """The request in an entry. A field that is null counts as left out.

    Raises:
        RequestInvalid: it is malformed; the message shows nothing of it.
        NewerVersion: only a worker of a later version can read it.
    """
    return ScoreRequest.parse(_fields(text, priority))


def _fields(text: str, priority: int) -> dict[str, object]:
    try:
        text.encode()
        found = json.loads(text, parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError):
        raise RequestInvalid("not JSON in UTF-8") from None
    if not isinstance(found, dict):
        raise RequestInvalid('must be a JSON object such as {"image_url": "https://...", "prompt": "..."}')
    if found.get("metadata") == []:
        # PHP writes an empty object so.
        found["metadata"] = {}
    return {**{name: value for name, value in found.items() if value is not None}, "priority": priority}


def _finite(text: str) -> float:
    """A number of JSON. Python would accept NaN, and read 1e999 as infinity, which no JSON can hold."""
    if not math.isfinite(number := float(text)):
        raise ValueError("not a finite number")
    return number


@dataclass(frozen=True)
class _Entry:
    """An entry of an inbox: its size in bytes, and its text, or only the beginning if it is too large."""

    size_bytes: int
    text: str


class Admission:
    """Moves entries of the inbox into the ledger. Safe to share among threads; raises QueueUnavailable as `Connection`
    does.

    The verdict of a refused request is kept for `result_ttl_s` seconds, and at most `dead_letters_bytes` of dead
    letters. `tenants` says what each tenant may have admitted, None that there are no limits; requests beyond are
    answered with what `on_failure` decides by the policy of that name, None being the workers' own.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        result_ttl_s: int,
        dead_letters_bytes: int,
        tenants: Tenants | None = None,
        on_failure: Callable[[str | None], Decision] = lambda _: Decision.REVIEW,
    ) -> None:
        self._connection = connection
        self._tenants = tenants
        self._on_failure = on_failure
        self._result_ttl_s = result_ttl_s
        self._dead_letters_bytes = dead_letters_bytes

    def wait(self, priority: int, timeout_s: int) -> bool:
        """Wait until an entry lies in the inbox of this priority. False if none came within `timeout_s` seconds."""
        inbox = self._connection.key(keys.inbox(priority))
        # It moves an entry from the end of the list to the same end: nothing changes, but it waits for an entry.
        return self._connection.call("blmove", inbox, inbox, timeout_s, "RIGHT", "RIGHT") is not None

    def admit(self, priority: int) -> int:
        """Move the next entries, up to 100; returns how many were moved."""
        inbox = self._connection.key(keys.inbox(priority))
        looked = self._connection.run("peek", [inbox, _ENTRIES, _BYTES, MAX_ENTRY_BYTES, KEPT_CHARS])
        entries = [_Entry(int(size), text) for size, text in looked]
        moved, together = 0, len(entries)
        while batch := entries[moved : moved + together]:
            count, conflict = self._move(priority, [self._judged(entry, priority) for entry in batch])
            if conflict:
                count += self._move(priority, [self._conflict(batch[count], priority)])[0]
                together = _AFTER_CONFLICT
            moved += count
            if count < len(batch) and not conflict:  # another worker was here
                break
        return moved

    def _move(self, priority: int, judged: Sequence[tuple[str | int, ...]]) -> tuple[int, bool]:
        inbox, newer = map(self._connection.key, (keys.inbox(priority), keys.newer(priority)))
        arguments: list[str | int] = [inbox, priority, newer, self._result_ttl_s, self._dead_letters_bytes]
        count, conflict = self._connection.run("admit", arguments + [word for words in judged for word in words])
        return int(count), bool(conflict)

    def _judged(self, entry: _Entry, priority: int) -> tuple[str | int, ...]:
        """The arguments of `admit.lua` for an entry."""
        fields: dict[str, object] = {}
        try:
            if entry.size_bytes > MAX_ENTRY_BYTES:
                raise RequestInvalid(f"{entry.size_bytes} bytes are more than {MAX_ENTRY_BYTES}")
            fields = _fields(entry.text, priority)
            request = ScoreRequest.parse(fields)
            owed = self._owed(request)
        except NewerVersion:
            return (entry.size_bytes, entry.text, "newer", *[""] * 10)
        except RequestInvalid as invalid:
            return self._dead(entry, priority, Failure.from_error(invalid), _known(fields))
        except Exception as error:
            # Otherwise the entry would end every worker. The error's message may quote it, so the log names its type
            # alone.
            logger.error("an entry of %s raised %s", keys.inbox(priority), type(error).__name__)
            return self._dead(entry, priority, Failure.from_error(error))
        return (entry.size_bytes, entry.text, "owe", *owed)

    def _owed(self, request: ScoreRequest) -> tuple[str | int, ...]:
        terms = FREE if self._tenants is None else self._tenants.terms(request.tenant)
        answer = ""
        if terms.failure is not None:
            decision = self._on_failure(request.policy or terms.policy)
            answer = refusal(request, terms.failure, decision).model_dump_json()
        return (
            request.name,
            request.fingerprint,
            request.to_json(),
            answer,
            ",".join(request.deliveries),
            "1" if request.retry_failed else "",
            request.batch_id or "",
            request.image_url if request.image_url.startswith("s3://") else "",
            "" if terms.max_waiting is None else terms.max_waiting,
            "" if terms.images_per_day is None else terms.images_per_day,
        )

    def _conflict(self, entry: _Entry, priority: int) -> tuple[str | int, ...]:
        known = parse(entry.text, priority).name
        invalid = RequestInvalid(f"request_id: {known} stands for another request, which came first and stays")
        return self._dead(entry, priority, Failure.from_error(invalid))

    def _dead(
        self, entry: _Entry, priority: int, failure: Failure, request: ScoreRequest | None = None
    ) -> tuple[str | int, ...]:
        name = None if request is None else request.name
        letter = DeadLetter.from_entry(keys.inbox(priority), entry.text, entry.size_bytes, failure, name)
        logger.warning("an entry of %s became dead letter %s: %s", letter.queue, letter.id, failure.code)
        answered: tuple[str, ...] = ("", "", "", "", "")
        if request is not None:
            answered = (
                request.name,
                request.fingerprint,
                request.to_json(),
                refusal(request, failure).model_dump_json(),
                ",".join(request.deliveries),
            )
        return (entry.size_bytes, entry.text, "dead", *answered, letter.id, letter.model_dump_json(), *[""] * 3)


def _known(fields: dict[str, object]) -> ScoreRequest | None:
    """A request of the valid fields of an invalid one, by which to answer it; None if it has no valid name."""
    valid = {name: fields[name] for name in ScoreRequest.model_fields if name in fields and _fits(name, fields[name])}
    is_named = "request_id" in valid and ("tenant" in valid or "tenant" not in fields)
    return ScoreRequest.model_validate({**_UNKNOWN, **valid}) if is_named else None


def _fits(name: str, value: object) -> bool:
    try:
        ScoreRequest.model_validate({**_UNKNOWN, name: value})
    except (ValidationError, NewerVersion):
        return False
    return True


def refusal(request: ScoreRequest, failure: Failure, decision: Decision = Decision.REVIEW) -> Verdict:
    """The verdict on a request that no worker will score."""
    return Verdict(
        request_id=request.request_id,
        status="failed",
        decision=decision,
        reasons=(f"{failure.code}: {failure.message}",),
        aspects={},
        policy=None,
        model=None,
        image=None,
        timings_ms={},
        attempt=1,
        submitted_at=request.submitted_at,
        scored_at=datetime.now(UTC),
        metadata=request.metadata,
        error=failure,
        batch_id=request.batch_id,
        tenant=request.tenant,
    )
