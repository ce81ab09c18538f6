"""Tenants share a queue, and none meets a request of another's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import closing

import pytest
from redis import Redis

from m3agiqa.client import AsyncClient, Client
from m3agiqa.contract import ScoreRequest, Verdict
from m3agiqa.errors import ConfigError, RequestConflict, RequestInvalid, ResultTimeout, UsageError
from m3agiqa.queue import inbox, keys
from m3agiqa.queue.ledger import Ledger
from m3agiqa.queue.state import State
from tests.m3agiqa.queue.support import traces
from tests.support_verdicts import verdict

IMAGE = "https://host/a.png"


@pytest.fixture
def ledger(redis_url: str) -> Iterator[Ledger]:
    with closing(Ledger(redis_url)) as ledger:
        yield ledger


@pytest.fixture
def acme(client: Client) -> Client:
    return client.for_tenant("acme")


@pytest.fixture
def umbra(client: Client) -> Client:
    return client.for_tenant("umbra")


def score(ledger: Ledger, name: str, prompt: str) -> None:
    """Publish a verdict on a request, as workers do."""
    with ledger.claim(name) as claim:
        told = verdict(claim.request.request_id).model_copy(
            update={"tenant": claim.request.tenant, "metadata": {"prompt": prompt}}
        )
        assert claim.publish(told)


def prompt_of(told: Verdict) -> object:
    return told.metadata["prompt"]


def test_ids_are_unique_within_a_tenant(ledger: Ledger, client: Client, acme: Client, umbra: Client) -> None:
    # given one id that three use for different images
    for one, prompt in ((client, "nobody's"), (acme, "acme's"), (umbra, "umbra's")):
        assert one.submit(image_url=IMAGE, prompt=prompt, request_id="cat") == "cat"
    ledger.admit(3)
    # when each is scored
    for name, prompt in (("cat", "nobody's"), ("acme/cat", "acme's"), ("umbra/cat", "umbra's")):
        score(ledger, name, prompt)
    # then each gets its own verdict, and who names no tenant may name any request
    assert [prompt_of(one.result("cat", 0)) for one in (client, acme, umbra)] == ["nobody's", "acme's", "umbra's"]
    assert prompt_of(client.result("acme/cat", 0)) == "acme's"
    assert [prompt_of(told) for told in acme.results()] == ["acme's"]
    assert {prompt_of(told) for told in client.results()} == {"nobody's", "acme's", "umbra's"}
    assert [told.tenant for told in acme.as_completed(["cat"], 5)] == ["acme"]


@pytest.mark.parametrize("name", ["umbra/cat", "../umbra/cat", "*", "umbra/*"])
def test_no_id_leads_to_another_tenant(name: str, ledger: Ledger, acme: Client, umbra: Client) -> None:
    umbra.submit(image_url=IMAGE, prompt="", request_id="cat")
    ledger.admit(3)
    score(ledger, "umbra/cat", "umbra's")
    assert acme.state(name) is None
    assert acme.history(name) == ()
    assert acme.status_many([name])[name].state is None
    with pytest.raises(ResultTimeout):
        acme.result(name, timeout=0)
    with pytest.raises(UsageError):
        acme.cancel(name)
    with pytest.raises(UsageError):
        acme.erase(name)
    with pytest.raises(RequestInvalid, match="request_id"):
        acme.submit(image_url=IMAGE, prompt="", request_id=name)
    assert prompt_of(umbra.result("cat", 0)) == "umbra's"


def test_a_client_of_a_tenant_submits_for_no_other(acme: Client, client: Client, redis: Redis) -> None:
    with pytest.raises(RequestInvalid, match="tenant: this client submits for acme alone"):
        acme.submit_many([{"image_url": IMAGE, "prompt": "", "tenant": "umbra"}])
    acme.submit_many([ScoreRequest(image_url=IMAGE, prompt="", request_id="a")])
    # one without a tenant submits for any, and calls the request by the name that finds it
    assert client.submit_many([{"image_url": IMAGE, "prompt": "", "request_id": "b", "tenant": "umbra"}]) == ["umbra/b"]
    waiting = [inbox.parse(text, 3) for text in reversed(redis.lrange(keys.inbox(3), 0, -1))]
    assert [one.name for one in waiting] == ["acme/a", "umbra/b"]


def test_what_conflicts_is_named_as_its_submitter_knows_it(ledger: Ledger, acme: Client, client: Client) -> None:
    acme.submit(image_url=IMAGE, prompt="one", request_id="cat")
    ledger.admit(3)
    with pytest.raises(RequestConflict, match="stands under cat "):
        acme.submit(image_url=IMAGE, prompt="two", request_id="cat")
    with pytest.raises(RequestConflict, match="stands under acme/cat "):
        client.submit_many([{"image_url": IMAGE, "prompt": "two", "request_id": "cat", "tenant": "acme"}])
    # the same image again is the same request
    assert acme.submit(image_url=IMAGE, prompt="one", request_id="cat") == "cat"


def test_one_tenant_takes_back_and_erases_its_own_alone(
    ledger: Ledger, client: Client, acme: Client, umbra: Client, redis: Redis
) -> None:
    for one in (client, acme, umbra):
        one.submit(image_url=IMAGE, prompt="", request_id="a")
        one.submit(image_url=IMAGE, prompt="", request_id="b")
    # when one cancels and erases a request, and purges the rest
    assert acme.cancel("a")
    assert acme.result("a", 0).tenant == "acme"
    erased = acme.erase("a")
    assert (erased.request_id, erased.request) == ("acme/a", True)
    assert list(acme.purge()) == ["b"]
    # then nothing of it is left, and others wait as before
    assert traces(redis, "acme/a") == []
    assert [one.state("a") for one in (client, acme, umbra)] == [State.SUBMITTED, None, State.SUBMITTED]
    assert [one.state("b") for one in (client, acme, umbra)] == [State.SUBMITTED, State.CANCELLED, State.SUBMITTED]


@pytest.mark.parametrize("tenant", ["", "Acme", "a/b", "a:b", "-a", "a" * 64, "a*", "a.b"])
def test_what_names_no_tenant(tenant: str, client: Client, redis_url: str) -> None:
    with pytest.raises(ConfigError, match="tenant: "):
        client.for_tenant(tenant)
    with pytest.raises(ConfigError, match="tenant: "):
        Client(redis_url, tenant=tenant)
    with pytest.raises(RequestInvalid, match="tenant: "):
        client.submit_many([{"image_url": IMAGE, "prompt": "", "tenant": tenant}])


def test_an_entry_of_no_sound_tenant_answers_nobody(ledger: Ledger, client: Client, redis: Redis) -> None:
    # given an entry in the inbox whose tenant is none
    fields = {"image_url": IMAGE, "prompt": "", "request_id": "cat", "tenant": "a/b"}
    redis.lpush(keys.inbox(3), json.dumps(fields))
    # when a worker takes it in
    ledger.admit(3)
    # then it is a dead letter, and no request of that id has an answer
    [letter] = client.dead_letters()
    assert (letter.request_id, letter.code) == (None, "request_invalid")
    assert list(client.results()) == []


def test_tenants_share_the_connections_of_an_async_client(ledger: Ledger, redis_url: str) -> None:
    async def run() -> None:
        async with AsyncClient(redis_url) as everybody:
            acme = everybody.for_tenant("acme")
            await acme.submit(image_url=IMAGE, prompt="", request_id="cat")
            ledger.admit(3)
            score(ledger, "acme/cat", "acme's")
            assert (await acme.result("cat", 5)).tenant == "acme"
            assert (await everybody.result("acme/cat", 5)).tenant == "acme"
            assert await everybody.state("cat") is None

    asyncio.run(run())
