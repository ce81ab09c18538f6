from __future__ import annotations

import time
from dataclasses import replace

from redis import Redis

from m3agiqa.contract import Verdict
from producers import Client, State, keys, message
from tests.producers.test_client import verdict
from tests.support import eventually
from tests.worker.ledger import LIST, begin, begin_again, delivery, letter, pass_time, request, taken
from worker.deliver import Delivery
from worker.settings import Settings
from worker.store import Store


def test_a_request_goes_through_its_states(store: Store, client: Client, redis: Redis) -> None:
    # given a request that wants a callback and an object
    client.submit_many([request()])
    assert client.state("r") == State.SUBMITTED
    # when it is scored, and delivered to both
    redis.rpop(LIST)
    lease = begin(store)
    assert (lease.outcome, lease.run, client.state("r")) == ("begun", 1, State.FETCHING)
    store.mark_scoring(lease)
    assert client.state("r") == State.SCORING
    places = [delivery(), delivery(kind="s3")]
    assert store.publish(verdict("r"), places)
    assert client.state("r") == State.SCORED
    leases = [store.begin_delivery(place) for place in places]
    assert client.state("r") == State.DELIVERING
    store.finish(leases[0])
    assert client.state("r") == State.DELIVERING
    store.finish(leases[1])
    # then it is settled, nothing is owed, and it is remembered only for a while
    assert client.state("r") == State.SETTLED
    assert redis.zcard(keys.OWED) == 0
    assert 0 < redis.ttl(keys.request("r")) <= 100
    assert set(redis.hgetall(keys.request("r"))) == {"state", "history"}
    assert [line.split(" ", 1)[1].partition(" by ")[0] for line in client.history("r")] == [
        "submitted",
        "score begun",
        "verdict published",
        "callback begun",
        "s3 begun",
        "callback delivered",
        "s3 delivered",
    ]


def test_publish_keeps_announces_and_enqueues(store: Store, redis: Redis, client: Client) -> None:
    # given somebody who listens
    begin(store)
    with redis.pubsub(ignore_subscribe_messages=True) as listener:
        listener.subscribe(keys.done("r"))
        listener.get_message(timeout=10)
        # when a verdict is published
        sent = [delivery(), delivery(kind="s3")]
        assert store.publish(verdict("r"), sent)
        # then it is there for a while, was announced, and its deliveries are on their queue in order
        assert client.result("r", timeout=0) == client.result("r", timeout=0)
        assert 0 < redis.ttl(keys.result("r")) <= 100
        assert eventually(lambda: listener.get_message(timeout=1), "the announcement")["channel"] == keys.done("r")
    raw = [redis.rpop(keys.DELIVER_QUEUE), redis.rpop(keys.DELIVER_QUEUE)]
    parsed = [message.parse(one, keys.DELIVER_QUEUE) for one in raw]
    assert [Delivery.model_validate(one.payload) for one in parsed] == sent
    assert [one.task_id for one in parsed] == ["r:callback", "r:s3"]


def test_a_request_that_wants_no_delivery_is_settled_with_its_verdict(store: Store, client: Client) -> None:
    begin(store)
    assert store.publish(verdict("r"), [])
    assert client.state("r") == State.SETTLED


def test_a_request_of_a_raw_producer_enters_at_first_sight(store: Store, client: Client, redis: Redis) -> None:
    # given a request that nobody wrote down
    assert client.state("r") is None
    # when a worker sees it, and dies
    begin(store)
    pass_time(redis, 2000)
    # then it is owed as if it had been submitted
    assert store.sweep() == 1
    assert taken(redis) == "r"


def test_a_copy_is_not_begun_while_somebody_has_the_task_nor_after(store: Store, redis: Redis) -> None:
    begin(store)
    assert begin(store).outcome == "taken"
    # nor as soon as its lease is over: the sweeper decides when it comes again
    pass_time(redis, 2000)
    assert begin(store).outcome == "taken"
    store.publish(verdict("r"), [delivery()])
    assert begin(store).outcome == "gone"
    store.finish(store.begin_delivery(delivery()))
    assert store.begin_delivery(delivery()).outcome == "gone"


def test_the_first_verdict_stays(store: Store, client: Client, redis: Redis) -> None:
    # given a worker that was thought dead, so that another has its task
    begin(store)
    assert begin_again(store, redis).run == 2
    first = verdict("r")
    other = first.model_copy(update={"attempt": 7})
    # when both come to a verdict
    assert store.publish(first, [delivery()])
    assert not store.publish(other, [delivery(attempt=7)])
    # then there is one, and one delivery
    assert client.result("r", timeout=0) == first
    assert redis.llen(keys.DELIVER_QUEUE) == 1


def test_a_worker_that_was_thought_dead_changes_nothing_for_the_one_that_has_its_task(
    store: Store, client: Client, redis: Redis
) -> None:
    stale = begin(store)
    current = begin_again(store, redis)
    due = redis.zscore(keys.OWED, "r")
    store.score_later(stale, request(), retries=1, delay_s=0, why="c")
    store.release(stale, why="c")
    store.bury(letter(task="r"), stale)
    store.mark_scoring(stale)
    assert redis.zscore(keys.OWED, "r") == due
    assert client.state("r") == State.FETCHING
    assert list(client.dead_letters()) == []
    assert store.publish(verdict("r"), [])
    assert current.outcome == "begun"


def test_scores_are_remembered_for_a_while(store: Store, redis: Redis, redis_url: str) -> None:
    store.cache_scores("k", "{}")
    assert store.cached_scores("k") == "{}"
    assert store.cached_scores("other") is None
    assert redis.ttl(keys.scores("k")) > 0
    forgetful = Store(Settings(redis_url=redis_url, score_cache_ttl_s=0))
    forgetful.cache_scores("other", "{}")
    assert forgetful.cached_scores("k") is None
    assert redis.get(keys.scores("other")) is None
    forgetful.close()


def test_a_verdict_is_kept_as_it_was(store: Store, client: Client) -> None:
    begin(store)
    one = verdict("r").model_copy(update={"metadata": {"ü": 1.5}})
    store.publish(one, [])
    assert Verdict.model_validate_json(one.model_dump_json()) == client.result("r", timeout=0)


def test_a_lease_that_is_renewed_stays(redis_url: str, redis: Redis) -> None:
    # given two tasks begun for a short time, and one that another worker has taken over
    store = Store(Settings(redis_url=redis_url, lease_s=30, visibility_timeout_s=1000))
    kept, dropped, lost = (begin(store, name) for name in ("kept", "dropped", "lost"))
    # when only one is renewed after 20 s
    pass_time(redis, 20)
    store.renew([kept, replace(lost, run=lost.run + 1), replace(dropped, since=time.monotonic() - 2000)])
    pass_time(redis, 20)
    # then the others are overdue: one that a worker has had for too long, and one whose later run is not this worker's
    assert store.sweep() == 2
    assert {task for task, _ in redis.zrange(keys.OWED, 0, -1, withscores=True)} == {"kept", "dropped", "lost"}
    assert {taken(redis), taken(redis)} == {"dropped", "lost"}
    store.close()


def test_a_renewal_brings_nothing_back(store: Store, redis: Redis) -> None:
    lease = begin(store, "r")
    store.release(lease, delay_s=500, why="busy")
    before = redis.zscore(keys.OWED, "r")
    store.renew([lease, replace(lease, task="gone")])
    assert redis.zscore(keys.OWED, "r") == before
    assert redis.zcard(keys.OWED) == 1
