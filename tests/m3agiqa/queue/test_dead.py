from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
from redis import Redis

from m3agiqa.client import Client
from m3agiqa.errors import DeliveryGone, NotOwed, UsageError
from m3agiqa.queue import keys
from m3agiqa.queue.inbox import MAX_ENTRY_BYTES
from m3agiqa.queue.ledger import Ledger
from m3agiqa.queue.state import State
from tests.m3agiqa.queue.support import begin, begin_again, letters, owe, publish, request, taken
from tests.support_verdicts import verdict

GONE = DeliveryGone("host answered 410")


def admit(ledger: Ledger, redis: Redis, *entries: str) -> None:
    """Have each taken in by itself."""
    for entry in entries:
        redis.lpush(keys.inbox(3), entry)
        assert ledger.admit(3) == 1


def refused(name: str, prompt: str = "p") -> str:
    """An entry that is answered and becomes a dead letter."""
    return f'{{"request_id": "{name}", "prompt": "{prompt}", "image_url": "file:///etc/passwd"}}'


def test_dead_letters_are_listed_the_newest_first(ledger: Ledger, client: Client, redis: Redis) -> None:
    owe(ledger, redis, request("a"), request("b"))
    for name in "ab":
        begin(ledger, name).bury(ValueError())
    assert [letter.request_id for letter in client.dead_letters()] == ["b", "a"]
    assert list(client.dead_letters()) == letters(redis)[::-1]


def test_a_dead_letter_says_what_it_was(ledger: Ledger, redis: Redis) -> None:
    publish(ledger, redis, "r", "callback")
    claim = begin(ledger, "r:callback")
    claim.bury(GONE)
    [letter] = letters(redis)
    assert (letter.request_id, letter.task, letter.kind, letter.queue) == ("r", "r:callback", "callback", "deliver")
    assert (letter.code, letter.reason, letter.attempts) == ("delivery_gone", "host answered 410", 1)
    assert letter.message == claim.request.model_dump_json(exclude_none=True)
    assert letter.history[-1].partition(" ")[2].startswith("callback begun by")


def test_a_dead_request_can_be_replayed(ledger: Ledger, client: Client, redis: Redis) -> None:
    # given a request given up after runs that never ended
    owe(ledger, redis, request())
    for _ in range(2):
        begin_again(ledger, redis).abandon(why="hangs")
    begin_again(ledger, redis).bury(ValueError())
    assert client.state("r") == State.DEAD
    assert redis.zcard(keys.OWED) == 0
    with pytest.raises(NotOwed, match="gone"):
        begin(ledger)
    # when it is replayed
    [dead] = client.dead_letters()
    assert client.replay(dead)
    assert not client.replay(dead)
    # then it is a request like any other, with all its runs and attempts
    assert client.state("r") == State.SUBMITTED
    assert list(client.dead_letters()) == []
    claim = begin(ledger, taken(redis))
    assert (claim.attempt, claim.poisoned) == (1, False)
    assert claim.publish(verdict("r"))
    assert client.state("r") == State.SETTLED
    assert redis.ttl(keys.request("r")) > 0


def test_a_request_is_dead_while_one_of_its_deliveries_is(ledger: Ledger, client: Client, redis: Redis) -> None:
    # given a verdict that reached one of two places
    publish(ledger, redis, "r", "callback", "s3")
    begin(ledger, "r:callback").bury(GONE)
    assert client.state("r") == State.DELIVERING
    begin(ledger, "r:s3").delivered()
    assert client.state("r") == State.DEAD
    # when the other delivery is replayed, and arrives
    [dead] = client.dead_letters()
    redis.delete(keys.DELIVER_QUEUE)
    assert client.replay(dead)
    delivery = begin(ledger, taken(redis, keys.DELIVER_QUEUE))
    assert delivery.verdict == redis.get(keys.result("r"))
    delivery.delivered()
    # then it is settled
    assert client.state("r") == State.SETTLED


def test_a_dead_request_that_is_dropped_is_remembered_for_a_while(ledger: Ledger, client: Client, redis: Redis) -> None:
    owe(ledger, redis, request())
    begin(ledger).bury(ValueError())
    assert redis.ttl(keys.request("r")) == -1
    [dead] = client.dead_letters()
    assert client.drop(dead.id)
    assert not client.drop(dead.id)
    assert client.state("r") == State.DEAD
    assert redis.ttl(keys.request("r")) > 0
    with pytest.raises(NotOwed, match="gone"):
        begin(ledger)


def test_a_request_that_is_still_delivered_elsewhere_is_settled_though_a_letter_of_it_was_dropped(
    ledger: Ledger, client: Client, redis: Redis
) -> None:
    # given a verdict that one of two places does not take
    publish(ledger, redis, "r", "callback", "s3")
    begin(ledger, "r:callback").bury(GONE)
    # when this is dropped before the other place has it
    [dead] = client.dead_letters()
    assert client.drop(dead.id)
    begin(ledger, "r:s3").delivered()
    # then nothing is owed, and it is forgotten in time
    assert client.state("r") == State.SETTLED
    assert redis.ttl(keys.request("r")) > 0


def test_a_request_that_was_given_up_gets_no_verdict_until_it_is_replayed(
    ledger: Ledger, client: Client, redis: Redis
) -> None:
    # given a worker that was thought dead, and a request that another one gave up meanwhile
    owe(ledger, redis, request("r", "callback"))
    stale = begin(ledger)
    begin_again(ledger, redis).bury(ValueError())
    # when the first comes to a verdict
    assert not stale.publish(verdict("r"))
    # then it is dead all the same, and can be put back
    assert client.state("r") == State.DEAD
    assert redis.exists(keys.result("r"), keys.DELIVER_QUEUE) == 0
    [dead] = client.dead_letters()
    assert client.replay(dead)
    assert begin(ledger).publish(verdict("r"))


def test_a_request_that_is_replayed_is_not_forgotten(ledger: Ledger, client: Client, redis: Redis) -> None:
    owe(ledger, redis, request())
    begin(ledger).bury(ValueError())
    redis.expire(keys.request("r"), 100)
    [dead] = client.dead_letters()
    assert client.replay(dead)
    assert redis.ttl(keys.request("r")) == -1


def test_what_is_wrong_may_be_replayed_all_the_same(ledger: Ledger, client: Client, redis: Redis) -> None:
    # given dead letters of what never became a task
    entries = {refused("x"), "not even JSON"}
    admit(ledger, redis, *entries)
    # when they are put back, they lie where they came from, and are told again what is wrong
    for dead in client.dead_letters():
        assert client.replay(dead)
        assert not client.replay(dead)
    assert set(redis.lrange(keys.inbox(3), 0, -1)) == entries
    assert redis.hlen(keys.DEAD) == 0
    assert ledger.admit(3) == 2
    assert {letter.message for letter in letters(redis)} == entries


def test_what_cannot_be_replayed_says_why_and_stays(ledger: Ledger, client: Client, redis: Redis) -> None:
    # given a request that was answered, one that is forgotten, and an entry too large to keep
    owe(ledger, redis, request("answered"), request("forgotten"))
    redis.set(keys.result("answered"), verdict("answered").model_dump_json())
    for name in ("answered", "forgotten"):
        begin(ledger, name).bury(ValueError())
    redis.delete(keys.request("forgotten"))
    admit(ledger, redis, "[" + " " * MAX_ENTRY_BYTES + "]")
    # when they are put back
    for letter, said in zip(letters(redis), ("answered with a failure", "forgotten", "not kept whole"), strict=True):
        with pytest.raises(UsageError, match=said):
            client.replay(letter)
        stranger = letter.model_copy(update={"task": None, "queue": "m3agiqa:newer:3", "cut": False})
        with pytest.raises(UsageError, match="came from no inbox"):
            client.replay(stranger)
    # then they are still there
    assert redis.hlen(keys.DEAD) == 3
    assert redis.exists(keys.request("forgotten"), keys.inbox(3), keys.newer(3)) == 0


@pytest.fixture
def cramped(redis_url: str) -> Iterator[Ledger]:
    """A worker that keeps few dead letters: some four of a refused request."""
    with closing(Ledger(redis_url, dead_letters_bytes=3000)) as ledger:
        yield ledger


def test_the_oldest_dead_letters_are_dropped_where_all_are_too_large(
    cramped: Ledger, redis: Redis, client: Client
) -> None:
    # given more dead letters than there is room for
    names = [f"r{number}" for number in range(12)]
    owe(cramped, redis, *map(request, names))
    for name in names:
        begin(cramped, name).bury(GONE)
    # then the newest ones are there, and it is told how many are not
    kept = [letter.request_id for letter in letters(redis)]
    assert 1 < len(kept) < 12
    assert kept == names[-len(kept) :]
    assert redis.get(keys.DEAD_DROPPED) == str(12 - len(kept))
    sizes = sum(map(len, redis.hvals(keys.DEAD)))
    assert redis.get(keys.DEAD_BYTES) == str(sizes)
    assert sizes <= 3000
    assert redis.hlen(keys.DEAD) == redis.zcard(keys.DEAD_ORDER) == len(kept)
    # and the requests of those dropped are forgotten in time, the others not
    assert {name for name in names if redis.ttl(keys.request(name)) == -1} == set(kept)
    assert all(client.state(name) == State.DEAD for name in names)
    # and there is room again for what is dropped by hand
    for letter in letters(redis):
        assert client.drop(letter.id)
    assert redis.get(keys.DEAD_BYTES) == "0"
    admit(cramped, redis, refused("later"))
    assert redis.get(keys.DEAD_DROPPED) == str(12 - len(kept))


def test_dead_letters_that_come_together_are_dropped_the_oldest_first(cramped: Ledger, redis: Redis) -> None:
    names = [f"r{number}" for number in range(40)]
    redis.lpush(keys.inbox(3), *map(refused, names))
    assert cramped.admit(3) == 40
    kept = [letter.request_id for letter in letters(redis)]
    assert kept == names[-len(kept) :]
    assert sum(map(len, redis.hvals(keys.DEAD))) <= 3000


def test_a_dead_letter_larger_than_all_may_be_is_kept_until_the_next(cramped: Ledger, redis: Redis) -> None:
    admit(cramped, redis, refused("small"), refused("large", prompt="p" * 4000))
    assert [letter.request_id for letter in letters(redis)] == ["large"]
    admit(cramped, redis, refused("next"))
    assert [letter.request_id for letter in letters(redis)] == ["next"]


def test_tasks_given_up_share_the_room_of_dead_letters(cramped: Ledger, redis: Redis, client: Client) -> None:
    # given tasks that become dead letters, one after the other
    names = [f"r{number}" for number in range(10)]
    owe(cramped, redis, *map(request, names))
    for name in names:
        begin(cramped, name).bury(ValueError())
    # then the newest ones can be put back, and the others are forgotten in time
    kept = [letter.request_id for letter in letters(redis)]
    assert kept == names[-len(kept) :]
    assert len(kept) < 10
    assert all(client.replay(letter) for letter in letters(redis))
    assert redis.get(keys.DEAD_BYTES) == "0"
    assert {name for name in names if redis.ttl(keys.request(name)) == -1} == set(kept)


def test_dead_letters_are_dropped_in_time(redis_url: str, redis: Redis, client: Client) -> None:
    with closing(Ledger(redis_url, dead_letters_ttl_s=1000)) as ledger:
        # given a request of which a delivery is dead, and an entry that was none, one of them long ago
        publish(ledger, redis, "r", "callback")
        begin(ledger, "r:callback").bury(GONE)
        admit(ledger, redis, refused("later"))
        [old, new] = letters(redis)
        redis.zincrby(keys.DEAD_ORDER, -1001, old.id)
        # when a worker sweeps
        ledger.sweep()
        # then the old one is gone, its request is forgotten in time, and the rest is as it was
        assert [letter.id for letter in letters(redis)] == client.dead_letter_ids() == [new.id]
        assert client.history("r")[-1].endswith("dead letter expired")
        assert redis.ttl(keys.request("r")) > 0
        assert redis.get(keys.DEAD_BYTES) == str(sum(map(len, redis.hvals(keys.DEAD))))
        # and none was dropped for want of room
        assert redis.get(keys.DEAD_DROPPED) is None


def test_a_strangers_letter_takes_no_dead_letter_of_a_request_along(
    ledger: Ledger, client: Client, redis: Redis
) -> None:
    # given a request of which a delivery is dead, and an invalid entry with its id
    publish(ledger, redis, "r", "callback")
    begin(ledger, "r:callback").bury(GONE)
    admit(ledger, redis, refused("r"))
    theirs, ours = letters(redis)[1], letters(redis)[0]
    # when the stranger's is dropped
    assert client.drop(theirs.id)
    # then the request's own can still be put back, however much later
    assert redis.ttl(keys.request("r")) == -1
    assert client.replay(ours)
    begin(ledger, "r:callback").delivered()
    assert client.state("r") == State.SETTLED
