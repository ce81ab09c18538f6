"""Nothing of a tenant is left in Redis once it is erased, and nothing of others is gone."""

from __future__ import annotations

import pytest
from redis import Redis

from m3agiqa.client import Client
from m3agiqa.contract import ScoreRequest
from m3agiqa.errors import DeliveryGone, UsageError
from m3agiqa.queue import inbox, keys
from m3agiqa.queue.ledger import Ledger
from tests.m3agiqa.queue.support import begin, request, traces
from tests.support_verdicts import verdict

#: What may stand nowhere after: the tenant's name, and parts of what it submitted.
CANARIES = ("canary", "sing-1", "chirp")


def of(tenant: str, name: str, *places: str) -> ScoreRequest:
    return request(name, *places).model_copy(update={"tenant": tenant, "prompt": "chirp" if tenant == "canary" else ""})


@pytest.fixture
def full(ledger: Ledger, client: Client, redis: Redis) -> Client:
    """A Redis in which two tenants left all that tenants may leave."""
    redis.set(keys.SHADOW_SHARE, 1)
    for tenant in ("canary", "canary-bird"):
        own = client.for_tenant(tenant)
        # scored, delivered, given up at a receiver, and laid aside for a shadow worker
        inbox.push(redis, [of(tenant, "sing-1", "callback", "s3")])
        ledger.admit(6)
        redis.set(keys.scores(tenant[-1] * 64), "{}")
        told = verdict("sing-1").model_copy(update={"tenant": tenant})
        assert begin(ledger, f"{tenant}/sing-1").publish(told, [keys.scores(tenant[-1] * 64)])
        begin(ledger, f"{tenant}/sing-1:s3").delivered("s3://out", f"s3://out/{tenant}.json")
        begin(ledger, f"{tenant}/sing-1:callback").bury(DeliveryGone("410"))
        # waiting on the list, in a lane, and with its image
        inbox.push(redis, [of(tenant, f"wait-{number}") for number in range(20)])
        own.submit(image=b"GIF8 chirp", prompt="", priority=0, request_id="inline")
        begin(ledger, f"{tenant}/wait-0") if ledger.admit(6) else None
        # malformed, for a later version, unread, still in the inbox, and an image without a request
        redis.lpush(keys.inbox(6), f'{{"tenant": "{tenant}", "request_id": "x", "prompt": 7}}', f"no JSON, {tenant}")
        redis.lpush(keys.newer(6), f'{{"version": "9.0", "request_id": "sing-1", "tenant": "{tenant}"}}')
        redis.zadd(keys.UNREAD, {f"{tenant}/odd": 1})
        redis.set(keys.request(f"{tenant}/odd"), "x")
        redis.hset(keys.image(f"{tenant}/lost"), "x", "chirp")
        inbox.push(redis, [of(tenant, "late")])
    return client


def test_every_trace_goes_and_nothing_of_a_neighbour(full: Client, redis: Redis) -> None:
    neighbour = {key for key in traces(redis, "canary-bird") if "canary-bird" in key}
    # when one is erased
    erased = full.erase_tenant("canary")
    # then it is said what went, and what did not
    assert (erased.requests, erased.verdicts, erased.scores, erased.dead_letters) == (26, 2, 1, 3)
    assert (erased.samples, erased.usage_days, erased.s3_objects) == (2, 1, ("s3://out/canary.json",))
    # then its canaries stand in no key, but for those of a neighbour whose name begins alike
    left = {
        key: text for key, text in everything(redis).items() if "canary" in f"{key}{text}".replace("canary-bird", "")
    }
    assert left == {}
    assert [key for key in traces(redis, "chirp") if "canary-bird" not in key] == []
    # and a neighbour has all it had
    assert neighbour <= set(redis.scan_iter(count=1000))
    assert full.for_tenant("canary-bird").result("sing-1", 0).status == "scored"
    assert full.for_tenant("canary-bird").waiting() == 21
    # and there is nothing left to erase
    again = full.erase_tenant("canary")
    assert (again.requests, again.dead_letters, again.samples, again.usage_days) == (0, 0, 0, 0)


def everything(redis: Redis) -> dict[str, str]:
    """What Redis holds under each key."""
    read = {"string": redis.get, "hash": redis.hgetall, "set": redis.smembers}
    return {
        key: str(
            read[kind](key)
            if (kind := redis.type(key)) in read
            else (redis.lrange if kind == "list" else redis.zrange)(key, 0, -1)
        )
        for key in redis.scan_iter(count=1000)
    }


def test_both_may_be_erased(full: Client, redis: Redis) -> None:
    full.erase_tenant("canary-bird")
    full.for_tenant("canary").erase_tenant("canary")
    assert traces(redis, *CANARIES) == []


def test_usage_may_be_kept(full: Client) -> None:
    before = full.for_tenant("canary").usage()
    assert full.erase_tenant("canary", keep_usage=True).usage_days == 0
    [kept] = full.for_tenant("canary").usage()
    # the one that lay in the inbox was taken in before it was erased
    assert kept.admitted == before[0].admitted + 1


@pytest.mark.parametrize("tenant", ["", "*", "a/b", "Canary", "x" * 64])
def test_what_is_no_tenant_is_refused(tenant: str, client: Client) -> None:
    with pytest.raises(UsageError, match="is no tenant"):
        client.erase_tenant(tenant)


def test_no_tenant_erases_another(client: Client) -> None:
    with pytest.raises(UsageError, match="for tenant umbra alone"):
        client.for_tenant("umbra").erase_tenant("canary")
