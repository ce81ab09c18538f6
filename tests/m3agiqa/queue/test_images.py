"""Bytes of images that lie in Redis beside their requests."""

from __future__ import annotations

import hashlib
import time
from typing import Any

import pytest
from redis import Redis

from m3agiqa.client import Client
from m3agiqa.contract import Failure, ScoreRequest
from m3agiqa.errors import FetchRefused, InternalError, RequestInvalid
from m3agiqa.fields import INLINE_SCHEME
from m3agiqa.queue import keys
from m3agiqa.queue.images import PART_BYTES, InlineImages, parts
from m3agiqa.queue.ledger import Ledger
from tests.m3agiqa.queue.support import begin, letters, traces
from tests.support_verdicts import verdict

#: An image of three parts, of ASCII, so that a search of everything finds it.
DATA = b"canary-bytes" * (PART_BYTES // 5)
DIGEST = hashlib.sha256(DATA).hexdigest()
FAILED = Failure(code="fetch_refused", message="404", retryable=False)


def submit(client: Client, ledger: Ledger, name: str = "r", data: bytes = DATA, **fields: Any) -> None:
    """Submit a request with its image, and have it admitted."""
    client.submit(image=data, prompt="", request_id=name, **fields)
    ledger.admit(3)


def waiting(redis: Redis) -> int:
    return sum(map(int, redis.hvals(keys.IMAGES)))


def read(ledger: Ledger, digest: str = DIGEST) -> bytes:
    return b"".join(parts(ledger.connection, "r", digest))


def test_bytes_lie_beside_their_request_until_its_verdict(ledger: Ledger, client: Client, redis: Redis) -> None:
    # given a request with an image
    submit(client, ledger)
    claim = begin(ledger)
    # then a worker reads the bytes, no value is large, and everything would go by itself one day
    assert claim.request.image_url == INLINE_SCHEME + DIGEST
    assert read(ledger) == DATA
    assert max(map(len, redis.hvals(keys.image("r")))) == PART_BYTES
    assert waiting(redis) == len(DATA)
    assert 3500 < redis.ttl(keys.image("r")) <= 3600 <= redis.ttl(keys.IMAGES)
    # when there is a verdict, then nothing of it is left
    assert claim.publish(verdict("r"))
    assert (redis.exists(keys.image("r")), waiting(redis)) == (0, 0)
    assert traces(redis, "canary-bytes") == []


def test_bytes_are_any_bytes(ledger: Ledger, client: Client) -> None:
    data = bytes(range(256)) * 5000
    submit(client, ledger, data=data)
    assert read(ledger, hashlib.sha256(data).hexdigest()) == data


def test_whatever_ends_a_request_frees_its_bytes(ledger: Ledger, client: Client, redis: Redis) -> None:
    # given requests in the ledger, and one in the inbox
    submit(client, ledger, "cancelled")
    submit(client, ledger, "erased")
    client.submit(image=DATA, prompt="", request_id="waiting")
    assert len(traces(redis, "canary-bytes")) == 3
    # when they are taken back and erased
    assert client.cancel("cancelled")
    assert client.erase("erased").image
    assert client.erase("waiting").image
    # then no byte is left, and nothing of the erased ones
    assert traces(redis, "canary-bytes", DIGEST) == []
    assert waiting(redis) == 0
    assert not client.erase("cancelled").image


def test_a_repetition_is_counted_once_and_leaves_nothing_behind(ledger: Ledger, client: Client, redis: Redis) -> None:
    # when a request is submitted twice, then its bytes are counted once
    submit(client, ledger)
    submit(client, ledger)
    assert waiting(redis) == len(DATA)
    # and when once more after its verdict, then its bytes are not kept
    begin(ledger).publish(verdict("r"))
    submit(client, ledger)
    assert (redis.exists(keys.image("r")), waiting(redis)) == (0, 0)
    assert letters(redis) == []


def test_a_request_that_is_tried_anew_has_its_bytes_again(ledger: Ledger, client: Client, redis: Redis) -> None:
    # given a request that failed
    submit(client, ledger)
    begin(ledger).publish(verdict("r", status="failed", error=FAILED))
    # when it is submitted again, to be tried anew
    submit(client, ledger, retry_failed=True)
    # then its bytes are there
    begin(ledger)
    assert read(ledger) == DATA


def test_another_image_under_an_id_that_is_taken_leaves_the_first_its_bytes(
    ledger: Ledger, client: Client, redis: Redis
) -> None:
    # given a request that no worker has taken in, so that no client sees a conflict
    client.submit(image=DATA, prompt="", request_id="r")
    # when another image is submitted under its id
    submit(client, ledger, data=b"other")
    # then the first one stands, with its bytes, and all go together
    assert [letter.code for letter in letters(redis)] == ["request_invalid"]
    claim = begin(ledger)
    assert (claim.request.image_url, read(ledger)) == (INLINE_SCHEME + DIGEST, DATA)
    claim.publish(verdict("r"))
    assert (redis.exists(keys.image("r")), waiting(redis)) == (0, 0)


def test_a_task_that_was_given_up_keeps_its_bytes_for_who_puts_it_back(
    ledger: Ledger, client: Client, redis: Redis
) -> None:
    # given a request that a worker gave up
    submit(client, ledger)
    begin(ledger).bury(InternalError("a defect"))
    # when it is submitted again, then it is still a dead letter, and its bytes are there
    submit(client, ledger)
    [letter] = client.dead_letters()
    assert client.replay(letter)
    begin(ledger)
    assert read(ledger) == DATA


def test_a_sample_for_a_shadow_worker_has_bytes_that_somebody_can_fetch(
    ledger: Ledger, client: Client, redis: Redis
) -> None:
    # given a shadow worker that wants everything
    redis.set(keys.SHADOW_SHARE, 1)
    # when an image of this kind gets its verdict, and one of another kind whose prompt talks of it
    submit(client, ledger)
    client.submit(image_url="https://host/a.png", prompt='"image_url":"inline:', request_id="other")
    ledger.admit(3)
    for name in ("r", "other"):
        begin(ledger, name).publish(verdict(name))
    # then the other alone is laid aside
    [sample] = redis.lrange(keys.SHADOW, 0, -1)
    assert '"request_id":"other"' in sample


# --- limits ----------------------------------------------------------------------------------------------------------


def put(store: InlineImages, name: str, size: int) -> int:
    data = bytes(size)
    return store.keep([(ScoreRequest(image_url=store.url(data), prompt="", request_id=name), data)])


def test_what_waits_has_a_budget(ledger: Ledger, redis: Redis) -> None:
    store = InlineImages(ledger.connection, budget_bytes=100)
    # when images come, one of them twice, until there is no room
    assert put(store, "a", 60) == put(store, "a", 60) == put(store, "b", 40) == 1
    assert put(store, "c", 1) == 0
    # then a smaller one in the place of another makes some
    assert put(store, "a", 59) == put(store, "c", 1) == 1
    assert waiting(redis) == 100
    # and what expired takes none
    now = int(time.time()) // 60
    redis.delete(keys.IMAGES)
    redis.hset(keys.IMAGES, mapping={str(now - 1): 100, str(now + 1): 99})
    assert put(store, "d", 1) == 1
    assert put(store, "e", 1) == 0


def test_counts_that_a_stranger_wrote_stop_nobody(ledger: Ledger, client: Client, redis: Redis) -> None:
    redis.hset(keys.IMAGES, mapping={"x": "y", "9999999999": "-1", "": "", "99999999999999999999": "z"})
    redis.hset(keys.image("r"), mapping={"minute": "x", "bytes": "many"})
    submit(client, ledger)
    redis.hset(keys.image("r"), mapping={"minute": "x", "bytes": "nan"})
    redis.set(keys.image("other"), "no hash")
    submit(client, ledger, "third")
    assert begin(ledger).publish(verdict("r"))
    assert not client.erase("other").request
    assert redis.exists(keys.image("r"), keys.image("other")) == 0


def test_a_count_of_minutes_long_past_goes(ledger: Ledger, client: Client, redis: Redis) -> None:
    now = int(time.time()) // 60
    redis.hset(keys.IMAGES, mapping={str(now - 2): 7, str(now + 500): 8})
    submit(client, ledger)
    begin(ledger).publish(verdict("r"))
    assert str(now - 2) not in redis.hgetall(keys.IMAGES)
    assert redis.hget(keys.IMAGES, str(now + 500)) == "8"


def test_an_image_has_a_limit(ledger: Ledger) -> None:
    store = InlineImages(ledger.connection, max_bytes=10)
    assert store.url(bytes(10)) == INLINE_SCHEME + hashlib.sha256(bytes(10)).hexdigest()
    with pytest.raises(RequestInvalid, match="image: 11 bytes are more than 10; name a bucket"):
        store.url(bytes(11))


def test_a_part_that_no_client_wrote_is_not_read(ledger: Ledger, redis: Redis) -> None:
    redis.hset(keys.image("r"), f"{DIGEST}:0", "x" * (PART_BYTES + 1))
    with pytest.raises(FetchRefused, match="not as a client writes them"):
        read(ledger)
