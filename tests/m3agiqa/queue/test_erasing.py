"""Nothing of a request is left in Redis once it is erased."""

from __future__ import annotations

import pytest
from redis import Redis

from m3agiqa.client import Client, Erased
from m3agiqa.errors import DeliveryGone, NotOwed, UsageError
from m3agiqa.queue import inbox, keys
from m3agiqa.queue.ledger import Ledger
from tests.m3agiqa.queue.support import begin, letters, owe, pass_time, publish, request, traces
from tests.support_verdicts import verdict

NAME = "canary-1"


def test_every_trace_goes_and_nothing_of_others(ledger: Ledger, client: Client, redis: Redis) -> None:
    # given a request that was scored, delivered to S3, given up at its receiver, and laid aside for a shadow worker
    redis.set(keys.SHADOW_SHARE, 1)
    scores = keys.scores("a" * 64)
    redis.set(scores, "{}")
    owe(ledger, redis, request(NAME, "callback", "s3"), request("other", "callback"))
    assert begin(ledger, NAME).publish(verdict(NAME), [scores, keys.scores("gone")])
    begin(ledger, f"{NAME}:s3").delivered("s3://out", "s3://out/verdicts/canary-1.json")
    begin(ledger, f"{NAME}:callback").bury(DeliveryGone("410"))
    # and another one of its id, an entry that is none, and one for a later version
    inbox.push(redis, [request(NAME).model_copy(update={"prompt": "another"})])
    redis.lpush(keys.inbox(6), f'{{"request_id": "{NAME}", "prompt": 7}}', f"no JSON {NAME}")
    redis.lpush(keys.newer(6), f'{{"version": "9.0", "request_id": "{NAME}"}}', '{"request_id": "other"}')
    publish(ledger, redis, "kept")
    # when it is erased
    erased = client.erase(NAME)
    # then it is said what went, and what did not
    assert (erased.request, erased.verdict, erased.scores, erased.samples) == (True, True, True, 2)
    assert len(erased.dead_letters) == 4
    assert erased.s3_objects == ("s3://out/verdicts/canary-1.json",)
    assert traces(redis, NAME) == []
    assert redis.exists(scores) == 0
    # and others are as they were
    assert client.result("kept", timeout=0).status == "scored"
    assert redis.zrange(keys.OWED, 0, -1) == ["other"]
    assert redis.lrange(keys.newer(6), 0, -1) == ['{"request_id": "other"}']
    # and there is nothing left to erase
    again = client.erase(NAME)
    assert again == Erased(
        request_id=NAME,
        request=False,
        verdict=False,
        scores=False,
        image=False,
        dead_letters=(),
        samples=0,
        s3_objects=(),
    )


@pytest.mark.parametrize("taken_back", [False, True])
def test_what_a_worker_finds_out_meanwhile_is_kept_nowhere(
    taken_back: bool, ledger: Ledger, client: Client, redis: Redis
) -> None:
    # given a worker that has it, whether or not it was taken back
    owe(ledger, redis, request(NAME, "callback"))
    claim = begin(ledger, NAME)
    if taken_back:
        assert client.cancel(NAME)
    # when it is erased, and the worker goes on
    client.erase(NAME)
    claim.mark_scoring()
    assert not claim.publish(verdict(NAME))
    claim.postpone(0, "later")
    claim.bury(ValueError())
    # then nothing is kept, and nothing comes again
    assert traces(redis, NAME) == []
    pass_time(redis, 10_000)
    assert ledger.sweep() == 0
    # and the id can be used again
    publish(ledger, redis, NAME)
    assert client.result(NAME, timeout=0).status == "scored"


def test_one_that_waits_is_scored_no_more(ledger: Ledger, client: Client, redis: Redis) -> None:
    inbox.push(redis, [request(NAME), request("other")])
    assert client.erase(NAME).request
    assert traces(redis, NAME) == []
    with pytest.raises(NotOwed):
        begin(ledger, NAME)
    assert begin(ledger, "other").request.request_id == "other"


@pytest.mark.parametrize("name", ["", "a:callback", "*", "\x1b[31m", "x" * 5000])
def test_what_is_no_id_is_refused(name: str, client: Client) -> None:
    with pytest.raises(UsageError, match="is no request id"):
        client.erase(name)


def test_a_key_that_the_ledger_names_wrongly_stays(ledger: Ledger, client: Client, redis: Redis) -> None:
    publish(ledger, redis, NAME)
    redis.set("other", "x")
    redis.hset(keys.request(NAME), "scores", "other")
    assert not client.erase(NAME).scores
    assert redis.get("other") == "x"


def test_entries_of_any_form_can_be_erased(ledger: Ledger, client: Client, redis: Redis) -> None:
    # given a key that is no hash, and lists that are none
    redis.set(keys.request(NAME), NAME)
    redis.set(keys.SHADOW, "x")
    redis.set(keys.newer(0), "x")
    redis.hset(keys.DEAD, "odd", f"no letter of {NAME}")
    assert client.erase(NAME).dead_letters == ("odd",)
    assert traces(redis, NAME) == []
    assert letters(redis) == []
