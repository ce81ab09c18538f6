from __future__ import annotations

from itertools import pairwise

from redis import Redis

from producers import Client, State, keys, message
from tests.producers.test_client import verdict
from tests.worker.ledger import LIST, begin, begin_again, delivery, letter, pass_time, request, taken
from worker.store import Store


def test_a_task_that_takes_its_workers_along_is_poison(store: Store, redis: Redis) -> None:
    # given a task of which two runs in a row never ended
    for run in (1, 2):
        assert begin_again(store, redis).run == run
    # then nobody may run it again
    lease = begin_again(store, redis)
    assert lease.outcome == "poison"
    assert sum("begun by" in line for line in lease.history) == 2


def test_runs_that_end_properly_are_no_sign_of_poison(store: Store, redis: Redis) -> None:
    for _ in range(10):
        lease = begin_again(store, redis)
        assert lease.outcome == "begun"
        store.release(lease, why="c")


def test_runs_that_a_worker_had_to_abandon_are(store: Store, redis: Redis) -> None:
    for outcome in ("begun", "begun", "poison"):
        lease = begin_again(store, redis)
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
        store.abandon(begin_again(store, redis), why="hangs")
    store.bury(letter(task="r"), begin_again(store, redis))
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


def test_a_request_that_is_still_delivered_elsewhere_is_settled_though_a_letter_of_it_was_dropped(
    store: Store, client: Client, redis: Redis
) -> None:
    # given a verdict that one of two places does not take
    begin(store)
    places = [delivery(), delivery(kind="s3")]
    store.publish(verdict("r"), places)
    buried = letter(task="r:callback").model_copy(update={"queue": "deliver", "kind": "callback"})
    store.bury(buried, store.begin_delivery(places[0]))
    # when this is dropped before the other place has it
    assert client.drop(buried)
    store.finish(store.begin_delivery(places[1]))
    # then nothing is owed, and it is forgotten in time
    assert client.state("r") == State.SETTLED
    assert redis.ttl(keys.request("r")) > 0


def test_a_message_that_is_wrong_may_be_replayed_all_the_same(store: Store, client: Client, redis: Redis) -> None:
    wrong = message.envelope(keys.SCORE_QUEUE, {"prompt": "no picture"}, task_id="x")
    for task, raw in (("x", wrong), (None, "not even a message")):
        store.bury(letter(task=task).model_copy(update={"message": raw}))
    for dead in client.dead_letters():
        assert client.replay(dead)
    assert set(redis.lrange(keys.SCORE_QUEUE, 0, -1)) == {wrong, "not even a message"}
