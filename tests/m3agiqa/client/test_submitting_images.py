"""Clients that are given images as bytes."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from m3agiqa.client import AsyncClient, Client, submitting
from m3agiqa.errors import QueueFull, RequestConflict, RequestInvalid
from m3agiqa.queue import keys
from m3agiqa.queue.ledger import Ledger
from tests.support import Worker, png

DATA = png(7)
INLINE = f"inline:{hashlib.sha256(DATA).hexdigest()}"


@pytest.fixture
def ledger(redis_url: str) -> Iterator[Ledger]:
    with closing(Ledger(redis_url)) as ledger:
        yield ledger


def test_an_image_goes_the_whole_way_as_bytes(
    client: Client, redis_url: str, redis: Redis, tmp_path: Path, worker_process: Callable[..., Worker]
) -> None:
    # given a worker that may fetch from nowhere
    worker_process("score", fetch_allow_hosts="")
    file = tmp_path / "a.png"
    file.write_bytes(DATA)

    async def score() -> str:
        async with AsyncClient(redis_url) as waiting:
            verdict = await waiting.score(image=file, prompt="", timeout=60)
            assert verdict.image is not None
            return verdict.image.sha256

    # when images are scored, then it has seen these bytes, and none is left
    assert asyncio.run(score()) == hashlib.sha256(DATA).hexdigest()
    verdict = client.score(image=png(8, side=600), prompt="", timeout=60)
    assert (verdict.status, verdict.image and verdict.image.width) == ("scored", 600)
    assert list(redis.scan_iter(match=keys.image("*"))) == []
    # and when the bytes were lost, then the verdict says what to do, and to do it helps
    lost = client.submit(image_url=INLINE, prompt="", request_id="lost")
    failed = client.result(lost, timeout=60)
    assert failed.error is not None
    assert failed.error.code == "image_gone"
    assert "retry_failed" in failed.error.message
    assert client.score(image=DATA, prompt="", request_id="lost", retry_failed=True, timeout=60).status == "scored"


def test_many_are_submitted_with_and_without_bytes(client: Client, ledger: Ledger, redis: Redis) -> None:
    # when a mixture is submitted
    header = b"\x89PNG\r\n\x1a\n"
    data_url = f"data:image/png;base64,{base64.b64encode(header).decode()}"
    ids = client.submit_many(
        [
            {"image": DATA, "prompt": "", "request_id": "bytes"},
            {"image_url": "https://host/a.png", "image": None, "prompt": "", "request_id": "url"},
            {"image_url": data_url, "prompt": "", "request_id": "data"},
        ]
    )
    # then each names what it has
    assert ids == ["bytes", "url", "data"]
    ledger.admit(3)
    urls = []
    for name in ids:
        with ledger.claim(name) as claim:
            urls.append(claim.request.image_url)
    assert urls == [INLINE, "https://host/a.png", f"inline:{hashlib.sha256(header).hexdigest()}"]
    assert sorted(redis.scan_iter(match=keys.image("*"))) == [keys.image("bytes"), keys.image("data")]


def test_one_call_holds_no_more_images_than_it_must(
    client: Client, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a round trip that two images fill
    monkeypatch.setattr(submitting, "_CHUNK_BYTES", 2 * len(DATA))
    read: list[int] = []

    def images() -> Iterator[dict[str, Any]]:
        for number in range(5):
            read.append(redis.llen(keys.inbox(3)))
            yield {"image": DATA, "prompt": "", "request_id": f"r{number}"}

    # when more are submitted, then the first are in the queue before others are read
    assert len(client.submit_many(images())) == 5
    assert read == [0, 0, 2, 2, 4]


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({}, "image_url: Field required"),
        ({"image": DATA, "image_url": "https://host/a.png"}, "image: goes without image_url"),
        ({"image": bytes(100)}, "image: 100 bytes are more than 99"),
        ({"image": b""}, "image: must be bytes"),
        ({"image_url": "data:;base64,%%"}, "malformed"),
    ],
)
def test_what_cannot_be_sent_is_refused_and_nothing_kept(
    fields: dict[str, Any], why: str, redis_url: str, redis: Redis
) -> None:
    with Client(redis_url, inline_max_bytes=99) as client, pytest.raises(RequestInvalid, match=why):
        client.submit(prompt="", **fields)
    assert redis.keys() == []


def test_the_other_client_has_the_same_limits(redis_url: str) -> None:
    async def submit() -> None:
        async with AsyncClient(redis_url, inline_max_bytes=99) as client:
            await client.submit(image=bytes(100), prompt="")

    with pytest.raises(RequestInvalid, match="more than 99"):
        asyncio.run(submit())


def test_images_beyond_the_budget_are_refused_like_requests_beyond_the_queue(redis_url: str, redis: Redis) -> None:
    # given room for two images, and for ten requests
    with Client(redis_url, max_queued=10, inline_budget_bytes=2 * len(DATA) + 1) as client:
        # when more come, then it says what was enqueued
        items: list[dict[str, Any]] = [{"image": DATA, "prompt": "", "request_id": f"r{number}"} for number in range(4)]
        with pytest.raises(QueueFull, match=r"as many bytes of images as may wait already.*\(2 enqueued\)") as full:
            client.submit_many(items)
        assert full.value.submitted == ("r0", "r1")
        assert redis.llen(keys.inbox(3)) == 2
        assert redis.exists(keys.image("r2")) == 0
        # and those without bytes go on, up to their own limit
        client.submit_many([{"image_url": "https://host/a.png", "prompt": ""}] * 8)
        with pytest.raises(QueueFull, match="10 requests wait already"):
            client.submit(image=DATA, prompt="", request_id="r0")


def test_a_conflict_is_seen_before_any_byte_is_sent(client: Client, ledger: Ledger, redis: Redis) -> None:
    client.submit(image=DATA, prompt="", request_id="r")
    ledger.admit(3)
    client.submit(image=DATA, prompt="", request_id="r")
    with pytest.raises(RequestConflict):
        client.submit(image=DATA + b"x", prompt="", request_id="r")
    assert redis.hget(keys.image("r"), "bytes") == str(len(DATA))
