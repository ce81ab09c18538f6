"""What tenants used: each verdict counts once, on its day."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta

import pytest
from redis import Redis

from m3agiqa.client import Client
from m3agiqa.contract import Decision
from m3agiqa.errors import UsageError
from m3agiqa.queue import inbox, keys
from m3agiqa.queue.ledger import Ledger
from m3agiqa.queue.usage import Usage
from tests.m3agiqa.queue.support import begin, begin_again, request
from tests.support_verdicts import verdict


def today(redis: Redis) -> int:
    return int(redis.time()[0]) // 86_400


def owe(ledger: Ledger, redis: Redis, tenant: str | None, *names: str) -> None:
    inbox.push(redis, [request(name).model_copy(update={"tenant": tenant}) for name in names])
    while ledger.admit(6):
        pass


def counts(one: Usage) -> Mapping[str, int]:
    return {name: count for name, count in one.model_dump(exclude={"day", "tenant"}).items() if count}


def test_verdicts_count_by_tenant_and_decision(ledger: Ledger, client: Client, redis: Redis) -> None:
    # given requests of two tenants and of none
    for tenant in ("acme", "umbra", None):
        owe(ledger, redis, tenant, "a", "b", "c")
    # when some are scored, one fails, and one is taken back
    decisions = {"acme/a": Decision.ACCEPT, "acme/b": Decision.REJECT, "umbra/a": Decision.REVIEW, "a": Decision.ACCEPT}
    for name, decision in decisions.items():
        assert begin(ledger, name).publish(verdict("x").model_copy(update={"decision": decision}))
    assert begin(ledger, "umbra/b").publish(verdict("x").model_copy(update={"status": "failed"}))
    client.cancel("umbra/c")
    # then each counts for its own
    assert {one.tenant: counts(one) for one in client.usage()} == {
        "acme": {"admitted": 3, "accept": 1, "reject": 1},
        "umbra": {"admitted": 3, "review": 1, "failed": 2},
        None: {"admitted": 3, "accept": 1},
    }
    assert [one.tenant for one in client.for_tenant("acme").usage()] == ["acme"]
    # and is forgotten in the end
    assert 399 * 86_400 < redis.ttl(keys.usage(today(redis))) <= 400 * 86_400


def test_a_worker_that_publishes_second_counts_nothing(ledger: Ledger, client: Client, redis: Redis) -> None:
    owe(ledger, redis, "acme", "a")
    late = begin(ledger, "acme/a")
    assert begin_again(ledger, redis, "acme/a").publish(verdict("a"))
    assert not late.publish(verdict("a"))
    [one] = client.usage()
    assert (one.scored, one.admitted) == (1, 1)


def test_days_are_chosen_and_strangers_fields_passed_over(client: Client, redis: Redis) -> None:
    # given what was used on three days, one of them long ago, among fields that nobody of ours wrote
    now = today(redis)
    for ago, count in ((0, 5), (40, 7), (390, 9)):
        redis.hset(keys.usage(now - ago), mapping={"acme|accept": count, "acme|evil": 1, "A/c|accept": 1, "x": 1})
        redis.hset(keys.usage(now - ago), "umbra|accept", "many")
    day = date(1970, 1, 1) + timedelta(days=now)
    # then by default there are the last days, and others for who asks
    assert [(one.day, one.accept) for one in client.usage()] == [(day, 5)]
    assert [one.accept for one in client.usage(date.min, date.max)] == [9, 7, 5]
    assert [one.accept for one in client.usage(day - timedelta(days=40), day - timedelta(days=39))] == [7]
    assert client.usage(day - timedelta(days=9000), day - timedelta(days=8000)) == []
    assert client.usage(last=date.min) == []
    with pytest.raises(UsageError, match="after the last"):
        client.usage(datetime.now(UTC).date(), date(2020, 1, 1))
