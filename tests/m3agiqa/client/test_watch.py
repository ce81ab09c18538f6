"""Verdicts a page at a time, and as they come."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing

import pytest
from redis import Redis

from m3agiqa.client import AsyncClient, Client, Verdict
from m3agiqa.errors import QueueUnavailable
from m3agiqa.queue.ledger import Ledger
from m3agiqa.queue.state import State
from tests.support_verdicts import verdict

IMAGE = "https://host/a.png"


@pytest.fixture
def ledger(redis_url: str) -> Iterator[Ledger]:
    with closing(Ledger(redis_url)) as ledger:
        yield ledger


def score(ledger: Ledger, *names: str) -> None:
    ledger.admit(3)
    for name in names:
        with ledger.claim(name) as claim:
            asked = claim.request
            told = {"tenant": asked.tenant, "batch_id": asked.batch_id}
            assert claim.publish(verdict(asked.request_id).model_copy(update=told))


def test_pages_hold_every_verdict_once_or_more(client: Client, ledger: Ledger, redis: Redis) -> None:
    # given more verdicts than a page has, among many other keys
    redis.mset({f"other:{number}": "" for number in range(2_000)})
    names = {f"r{number}" for number in range(40)}
    for name in names:
        client.submit(image_url=IMAGE, prompt="", request_id=name, batch_id="b" if name < "r2" else None)
    client.for_tenant("acme").submit(image_url=IMAGE, prompt="", request_id="theirs")
    score(ledger, "acme/theirs", *names)
    # then all pages together have all of them, and those of a tenant its own
    assert pages(client, 7) == {*names, "theirs"}
    assert pages(client.for_tenant("acme"), 500) == {"theirs"}
    assert pages(client, 7, "b") == {name for name in names if name < "r2"}
    assert pages(client.for_tenant("umbra"), 1) == set()


def pages(client: Client, limit: int, batch_id: str | None = None) -> set[str]:
    found, cursor = client.page(0, limit, batch_id)
    while cursor:
        more, cursor = client.page(cursor, limit, batch_id)
        found += more
    return {told.request_id for told in found}


def test_what_is_taken_in_is_known(client: Client) -> None:
    client.submit(image_url=IMAGE, prompt="", request_id="cat")
    assert client.state("cat") is None
    client.take_in()
    assert client.state("cat") == State.SUBMITTED


def test_verdicts_are_told_as_they_come(ledger: Ledger, redis_url: str) -> None:
    async def run() -> None:
        async with AsyncClient(redis_url) as everybody:
            acme = everybody.for_tenant("acme")
            for one, batch_id in ((everybody, "b"), (acme, "b"), (acme, None)):
                await one.submit(image_url=IMAGE, prompt="", request_id=f"cat-{batch_id}", batch_id=batch_id)
            async with everybody.watch() as all_told, acme.watch() as told, acme.watch("b") as batch:
                score(ledger, "cat-b", "acme/cat-None", "acme/cat-b")
                assert [await named(all_told) for _ in range(3)] == ["cat-b", "acme/cat-None", "acme/cat-b"]
                assert [await named(told) for _ in range(2)] == ["acme/cat-None", "acme/cat-b"]
                assert await named(batch) == "acme/cat-b"

    asyncio.run(run())


async def named(told: object) -> str:
    found = await asyncio.wait_for(anext(told), 60)  # type: ignore[call-overload]
    assert isinstance(found, Verdict)
    return found.name


def test_who_may_have_missed_a_verdict_is_told(redis_url: str, redis: Redis) -> None:
    async def run() -> None:
        async with AsyncClient(redis_url) as client, client.watch() as told:
            redis.client_kill_filter(_type="pubsub")
            with pytest.raises(QueueUnavailable, match="were not told"):
                await named(told)

    asyncio.run(run())
