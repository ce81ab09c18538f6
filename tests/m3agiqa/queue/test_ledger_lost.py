from __future__ import annotations

import threading
from collections import Counter
from itertools import pairwise

import pytest
from redis import Redis

from m3agiqa.client import Client
from m3agiqa.errors import NotOwed
from m3agiqa.queue import keys
from m3agiqa.queue.ledger import Ledger
from m3agiqa.queue.state import State
from tests.m3agiqa.queue.support import (
    LIST,
    begin,
    begin_again,
    letters,
    owe,
    pass_time,
    publish,
    request,
    taken,
    waiting,
)
from tests.support_verdicts import verdict


def test_a_name_lost_between_list_and_worker_is_queued_again(ledger: Ledger, redis: Redis) -> None:
    # given three requests, of which the first two were taken, and one of these lost before anybody began it
    owe(ledger, redis, *(request(name) for name in ("lost", "begun", "waiting")))
    assert [taken(redis), taken(redis)] == ["lost", "begun"]
    begin(ledger, "begun")
    # when more time passes than a name is ever on its way, though less than a worker may take
    pass_time(redis, 100)
    assert ledger.sweep() == 2
    # then only the lost one is queued again, in front of those that never waited
    assert [taken(redis), taken(redis)] == ["lost", "waiting"]
    assert redis.llen(LIST) == 0
    assert begin(ledger, "lost").run == 1


def test_what_was_lost_comes_before_what_waits_and_nothing_is_copied(ledger: Ledger, redis: Redis) -> None:
    # given a long queue, and tasks of a dead worker
    owe(ledger, redis, *(request(name) for name in ("a", "b", "c")))
    for _ in range(3):
        begin(ledger, taken(redis))
    owe(ledger, redis, *(request(f"r{number}") for number in range(20)))
    pass_time(redis, 2000)
    # when they are swept, again and again
    for _ in range(3):
        ledger.sweep()
        pass_time(redis, 1000)
    # then each is there once, the lost ones first
    names = waiting(redis)
    assert set(names[:3]) == {"a", "b", "c"}
    assert names[3:] == [f"r{number}" for number in range(20)]


def test_what_was_put_off_waits_its_turn(ledger: Ledger, redis: Redis) -> None:
    owe(ledger, redis, request("again"))
    begin(ledger, taken(redis)).release(why="c")
    owe(ledger, redis, request("waiting"))
    ledger.sweep()
    assert [taken(redis), taken(redis)] == ["waiting", "again"]


def test_a_long_queue_does_not_fill_with_copies(ledger: Ledger, redis: Redis) -> None:
    owe(ledger, redis, *(request(f"r{number}") for number in range(50)))
    for _ in range(5):
        pass_time(redis, 10_000)
        ledger.sweep()
    assert waiting(redis) == [f"r{number}" for number in range(50)]


def test_the_task_of_a_dead_worker_is_queued_after_its_lease(ledger: Ledger, redis: Redis) -> None:
    owe(ledger, redis, request())
    begin(ledger, taken(redis))
    pass_time(redis, 990)
    assert ledger.sweep() == 0
    pass_time(redis, 10)
    assert ledger.sweep() == 1
    assert taken(redis) == "r"


def test_what_is_due_later_is_not_queued_before_and_no_copy_of_it_begun(ledger: Ledger, redis: Redis) -> None:
    owe(ledger, redis, request())
    begin(ledger).postpone(1000, why="fetch_unavailable")
    assert ledger.sweep() == 0
    with pytest.raises(NotOwed, match="taken"):
        begin(ledger)


def test_what_is_due_comes_back_as_it_was_left(ledger: Ledger, redis: Redis) -> None:
    # given an image and a delivery, due at once after some attempts
    publish(ledger, redis, "s", "callback")
    redis.delete(LIST, keys.DELIVER_QUEUE)
    begin(ledger, "s:callback").postpone(0, why="c")
    owe(ledger, redis, request())
    begin(ledger, taken(redis)).postpone(0, why="c")
    # when they are swept
    assert ledger.sweep() == 2
    # then each lies on its own list, complete
    score, delivery = begin(ledger, taken(redis)), begin(ledger, taken(redis, keys.DELIVER_QUEUE))
    assert (score.task, score.attempt, score.request.prompt) == ("r", 2, "two\nlines")
    assert (delivery.task, delivery.attempt, delivery.request.request_id) == ("s:callback", 2, "s")
    assert delivery.verdict == redis.get(keys.result("s"))


def test_many_sweepers_queue_each_task_once(ledger: Ledger, redis: Redis) -> None:
    # given far more overdue than one call queues
    names = [f"r{number}" for number in range(500)]
    owe(ledger, redis, *map(request, names))
    redis.delete(LIST)
    for name in names:
        begin(ledger, name).release(why="c")
    # when several sweep at once
    sweepers = [threading.Thread(target=lambda: [ledger.sweep() for _ in range(10)]) for _ in range(4)]
    for sweeper in sweepers:
        sweeper.start()
    for sweeper in sweepers:
        sweeper.join()
    # then each is there exactly once
    assert Counter(redis.lrange(LIST, 0, -1)) == Counter(names)


def test_a_verdict_outlives_a_redis_that_lost_its_data(
    ledger: Ledger, client: Client, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    # given a request that is scored while Redis is emptied
    owe(ledger, redis, request("r", "callback"))
    claim = begin(ledger, taken(redis))
    redis.flushdb()
    # when its verdict is there
    scored = verdict("r")
    assert claim.publish(scored)
    # then it is kept and delivered, and somebody is told
    assert client.result("r", timeout=0) == scored
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    delivery = begin(ledger, taken(redis, keys.DELIVER_QUEUE))
    assert (delivery.verdict, delivery.request) == (scored.model_dump_json(), claim.request)
    delivery.delivered()
    assert client.state("r") == State.SETTLED
    # and who comes second changes nothing, nor does who submits it again
    assert not claim.publish(verdict("r"))
    owe(ledger, redis, request("r", "callback"))
    assert redis.exists(LIST, keys.DEAD) == 0
    assert redis.llen(keys.DELIVER_QUEUE) == 0


def test_a_task_that_takes_its_workers_along_is_poison(ledger: Ledger, redis: Redis, client: Client) -> None:
    # given a task of which two runs in a row never ended
    owe(ledger, redis, request("r", "callback"))
    for run in (1, 2):
        claim = begin_again(ledger, redis)
        assert (claim.run, claim.poisoned) == (run, False)
    # then nobody may run it again
    claim = begin_again(ledger, redis)
    assert claim.poisoned
    assert sum("begun by" in line for line in claim.history) == 2
    # and with what its caller is told, it becomes a dead letter, which counts its runs
    assert claim.publish(verdict("r"))
    [letter] = letters(redis)
    assert (letter.code, letter.task, letter.attempts) == ("poison", "r", 3)
    begin(ledger, "r:callback").delivered()
    assert client.state("r") == State.DEAD


def test_runs_that_end_properly_are_no_sign_of_poison(ledger: Ledger, redis: Redis) -> None:
    owe(ledger, redis, request())
    for _ in range(10):
        claim = begin_again(ledger, redis)
        assert not claim.poisoned
        claim.release(why="c")


def test_runs_that_a_worker_had_to_abandon_are(ledger: Ledger, redis: Redis) -> None:
    owe(ledger, redis, request())
    for poisoned in (False, False, True):
        claim = begin_again(ledger, redis)
        assert claim.poisoned == poisoned
        claim.abandon(why="hangs")


def test_tasks_that_were_lost_together_twice_come_again_apart(ledger: Ledger, redis: Redis) -> None:
    # given sixteen tasks, one of which has killed two workers, and all others with them
    names = [f"r{number}" for number in range(16)]
    owe(ledger, redis, *map(request, names))
    for _ in range(2):
        assert redis.llen(LIST) == 16
        redis.delete(LIST)
        for name in names:
            begin(ledger, name)
        pass_time(redis, 2000)
        ledger.sweep()
    # then they do not come at once, nor all together
    assert redis.llen(LIST) == 0
    due = sorted(score for _, score in redis.zrange(keys.OWED, 0, -1, withscores=True))
    assert due[-1] - due[0] > 10
    assert max(later - sooner for sooner, later in pairwise(due)) < 3
    with pytest.raises(NotOwed, match="taken"):
        begin(ledger, "r7")
    # but they come
    pass_time(redis, 60)
    ledger.sweep()
    assert redis.llen(LIST) == 16
