"""Images whose bytes travel through Redis beside their requests, because the client was given no bucket.

    m3agiqa:image:NAME   hash: the bytes in parts, `SHA256:0`, `SHA256:1` ...; `bytes` and `minute`, as they are counted
    m3agiqa:images     hash: bytes that wait, by the minute in which they expire: no count outlives what it counts

A request names the SHA-256 (`inline:SHA256`), so nobody can put another image in its place: a worker compares. Parts of
another image under the same id lie beside those of the first, whose request stands. Scripts forget the bytes once there
is a verdict (`free` in `lua/prelude.lua`).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from m3agiqa.contract import ScoreRequest
from m3agiqa.errors import FetchRefused, RequestInvalid
from m3agiqa.fields import INLINE_SCHEME
from m3agiqa.queue import keys
from m3agiqa.queue.connection import Connection

#: Bytes of a part: below the smallest limit on a value that Redis can be given, `proto-max-bulk-len 1mb`.
PART_BYTES = 2**19
#: Bytes of an image, bytes of all that wait, and seconds for which they are kept, unless told otherwise.
MAX_BYTES, BUDGET_BYTES, TTL_S = 8 * 2**20, 512 * 2**20, 3600


@dataclass(frozen=True)
class InlineImages:
    """Puts images into Redis: each up to `max_bytes`, for `ttl_s` seconds, while all that wait have less than
    `budget_bytes`. Clients that put some at the same time may exceed that a little.
    """

    connection: Connection
    max_bytes: int = MAX_BYTES
    budget_bytes: int = BUDGET_BYTES
    ttl_s: int = TTL_S

    def url(self, data: bytes) -> str:
        """What a request names for an image.

        Raises:
            RequestInvalid: it is too large.
        """
        if len(data) > self.max_bytes:
            raise RequestInvalid(f"image: {len(data)} bytes are more than {self.max_bytes}; name a bucket to upload to")
        return f"{INLINE_SCHEME}{hashlib.sha256(data).hexdigest()}"

    def keep(self, images: Sequence[tuple[ScoreRequest, bytes]]) -> int:
        """Put images beside their requests, which name what `url` gave. Returns how many, from the first on: less than
        all if the budget is used up.

        Raises:
            QueueUnavailable: Redis cannot be reached, or forbids this user to.
        """
        waiting, counted = self._look([request.name for request, _ in images])
        for at, ((request, data), before) in enumerate(zip(images, counted, strict=True)):
            waiting += len(data) - (int(before[1]) if before else 0)
            if waiting > self.budget_bytes:
                return at
            self._put(request, data, before)
        return len(images)

    def _look(self, names: Sequence[str]) -> tuple[int, list[tuple[str, str] | None]]:
        """Bytes that wait, and as what the images of these requests are counted already: minute and bytes."""
        with self.connection.redis() as redis, redis.pipeline(transaction=False) as pipeline:
            pipeline.hgetall(self.connection.key(keys.IMAGES))
            for name in names:
                pipeline.hmget(self.connection.key(keys.image(name)), "minute", "bytes")
            by_minute, *found = pipeline.execute()
        return waiting_bytes(by_minute, time.time()), [
            (one[0], one[1]) if one[0] and _number(one[1]) else None for one in found
        ]

    def _put(self, request: ScoreRequest, data: bytes, before: tuple[str, str] | None) -> None:
        name, images = map(self.connection.key, (keys.image(request.name), keys.IMAGES))
        digest, minute = request.image_url.removeprefix(INLINE_SCHEME), int(time.time() + self.ttl_s) // 60
        fields: dict[Any, Any] = {
            f"{digest}:{at}": data[start : start + PART_BYTES]
            for at, start in enumerate(range(0, len(data), PART_BYTES))
        }
        with self.connection.redis() as redis, redis.pipeline() as step:
            if before:
                step.hincrby(images, before[0], -int(before[1]))
            step.hset(name, mapping=fields | {"minute": minute, "bytes": len(data)})
            step.expire(name, self.ttl_s)
            step.hincrby(images, str(minute), len(data))
            step.expire(images, self.ttl_s + 60)
            step.execute()


def parts(connection: Connection, request: str, digest: str) -> Iterator[bytes]:
    """The bytes of the image of the request of this name in order; nothing if they are gone.

    Raises:
        FetchRefused: a part is larger than a client writes one.
        QueueUnavailable: Redis cannot be reached.
    """
    name = connection.key(keys.image(request))
    for at in count():
        field = f"{digest}:{at}"
        # Asked for first, so that no part that a stranger wrote fills the memory.
        if connection.call("hstrlen", name, field) > PART_BYTES:
            raise FetchRefused("the bytes in Redis are not as a client writes them")
        # As bytes: to read them as text, as this connection does, would take a twentieth of a second a megabyte.
        part = connection.call("execute_command", "HGET", name, field, NEVER_DECODE=True)
        if part is None:
            return
        yield part
        # Only the last one is shorter. So a stranger's parts end as soon as ours, however many he wrote.
        if len(part) < PART_BYTES:
            return


def waiting_bytes(by_minute: Mapping[str, str], now: float) -> int:
    """Bytes that wait at a time, seconds since 1970, of what the hash `m3agiqa:images` holds."""
    return max(0, sum(_number(size) for minute, size in by_minute.items() if _number(minute) >= now // 60))


def _number(text: str | None) -> int:
    """A number that somebody wrote; 0 if it is none."""
    try:
        return int(text or 0)
    except ValueError:
        return 0
