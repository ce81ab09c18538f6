"""The client of programs that run an event loop. What it shares with `Client` is tested there."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from redis import Redis

import producers
from m3agiqa import client as clients
from m3agiqa.client import AsyncClient, State
from m3agiqa.contract import Failure
from m3agiqa.errors import QueueUnavailable, RequestConflict, RequestInvalid, ResultTimeout
from m3agiqa.queue import keys
from m3agiqa.queue.ledger import Ledger
from tests.support import PATIENCE_S, eventually
from tests.support_verdicts import verdict

FIELDS: dict[str, Any] = {"image_url": "https://host/a.png", "prompt": ""}
MANY = 2000


@pytest.fixture
def ledger(redis_url: str) -> Iterator[Ledger]:
    with closing(Ledger(redis_url)) as ledger:
        yield ledger


def publish(redis: Redis, *names: str) -> None:
    with redis.pipeline(transaction=False) as pipeline:
        for name in names:
            pipeline.set(keys.result(name), verdict(name).model_dump_json())
            pipeline.publish(keys.done(name), "")
        pipeline.execute()


def listened_to(redis: Redis, *names: str) -> int:
    """For how many of these somebody waits; a client of an earlier test may wait for others."""
    return sum(count > 0 for _, count in redis.pubsub_numsub(*map(keys.done, names)))


async def subscribed(redis: Redis, *names: str) -> None:
    await asyncio.to_thread(eventually, lambda: listened_to(redis, *names) == len(names), "all wait")


def connections(redis: Redis) -> set[str]:
    return {one["id"] for one in redis.client_list()}


def test_producers_give_the_same_clients() -> None:
    assert producers.Client is clients.Client
    assert producers.AsyncClient is clients.AsyncClient


def test_thousands_wait_by_two_connections(redis_url: str, redis: Redis) -> None:
    names = [f"r{number}" for number in range(MANY)]
    # A connection of an earlier test may end only now, so they are told apart.
    before = connections(redis)

    async def run() -> None:
        async with AsyncClient(redis_url) as client:
            # given many who wait
            results = [asyncio.create_task(client.result(name, PATIENCE_S)) for name in names]
            await subscribed(redis, *names)
            # then one connection listens, and one looks
            assert len(connections(redis) - before) == 2
            # when the verdicts come, then each has its own
            await asyncio.to_thread(publish, redis, *names)
            assert [found.request_id for found in await asyncio.gather(*results)] == names

    asyncio.run(run())
    assert listened_to(redis, *names) == 0


def test_verdicts_come_in_the_order_in_which_they_are_there(redis_url: str, redis: Redis) -> None:
    async def run() -> None:
        async with AsyncClient(redis_url) as client:
            found = client.as_completed(["a", "b", "a"], timeout=PATIENCE_S)
            for name in ("b", "a"):
                publish(redis, name)
                assert (await anext(found)).request_id == name
            assert [one async for one in found] == []
            # and who stops in the middle leaves nobody waiting
            async for _ in (left := client.as_completed(["a", "nobody"])):
                break
            await left.aclose()
            with pytest.raises(ResultTimeout, match=r"1 of 2 requests within 0\.1 s"):
                [one async for one in client.as_completed(["a", "nobody"], timeout=0.1)]
            assert client._client._waiting._waits == {}

    asyncio.run(run())


def test_an_image_is_submitted_scored_and_asked_for(redis_url: str, ledger: Ledger) -> None:
    async def run() -> None:
        async with AsyncClient(redis_url) as client:
            # when an image is scored
            scored = asyncio.create_task(client.score(**FIELDS, request_id="r", timeout=PATIENCE_S))
            await asyncio.to_thread(eventually, lambda: ledger.admit(3), "it is submitted")
            assert await client.state("r") == State.SUBMITTED
            assert (await client.status_many(["r"]))["r"].position == 1
            with ledger.claim("r") as claim:
                claim.publish(verdict("r"))
            # then its verdict comes, and its history is there
            assert (await scored).status == "scored"
            assert (await client.result("r", timeout=0)).status == "scored"
            assert len(await client.history("r")) == 3
            # and another can be submitted, taken back and erased
            assert await client.submit_many([{**FIELDS, "request_id": "other"}]) == ["other"]
            assert await client.cancel("other")
            assert (await client.erase("other")).request
            assert await client.state("other") is None

    asyncio.run(run())


def test_a_failed_one_is_scored_anew(redis_url: str, redis: Redis, ledger: Ledger) -> None:
    failure = Failure(code="fetch_refused", message="404", retryable=False)

    async def run() -> None:
        async with AsyncClient(redis_url) as client:
            await client.submit(**FIELDS, request_id="r")
            ledger.admit(3)
            with ledger.claim("r") as claim:
                claim.publish(verdict("r", status="failed", error=failure))
            scored = asyncio.create_task(client.score(**FIELDS, request_id="r", retry_failed=True, timeout=PATIENCE_S))
            await subscribed(redis, "r")
            ledger.admit(3)
            with ledger.claim("r") as claim:
                claim.publish(verdict("r"))
            assert (await scored).status == "scored"

    asyncio.run(run())


def test_what_is_wrong_is_raised(redis_url: str, ledger: Ledger, unused_port: int) -> None:
    async def run() -> None:
        async with AsyncClient(redis_url) as client:
            with pytest.raises(RequestInvalid, match="image_url"):
                await client.submit(image_url="file:///etc/passwd", prompt="")
            await client.submit(**FIELDS, request_id="r")
            ledger.admit(3)
            with pytest.raises(RequestConflict):
                await client.submit(image_url="https://host/a.png", prompt="other", request_id="r")
            for timeout in (0, 0.05):
                with pytest.raises(ResultTimeout, match=f"no verdict for r within {timeout} s"):
                    await client.result("r", timeout)
        async with AsyncClient(f"redis://127.0.0.1:{unused_port}/0") as away:
            for call in (away.submit(**FIELDS), away.result("r")):
                with pytest.raises(QueueUnavailable, match="cannot be reached"):
                    await call

    asyncio.run(run())


def test_who_is_cancelled_waits_no_more(redis_url: str, redis: Redis) -> None:
    async def run() -> None:
        async with AsyncClient(redis_url) as client:
            result = asyncio.create_task(client.result("r"))
            await subscribed(redis, "r")
            result.cancel()
            with pytest.raises(asyncio.CancelledError):
                await result
            assert client._client._waiting._waits == {}

    asyncio.run(run())
