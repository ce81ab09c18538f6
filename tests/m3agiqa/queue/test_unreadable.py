"""Records that no version of ours wrote: each costs itself, and no neighbour anything."""

from __future__ import annotations

import json
from contextlib import closing, suppress

import pytest
from redis import Redis

from m3agiqa.client import Client
from m3agiqa.errors import NotOwed, QueueUnavailable, UsageError
from m3agiqa.queue import inbox, keys
from m3agiqa.queue.ledger import Ledger
from m3agiqa.queue.state import State
from producers.cli import main
from tests.m3agiqa.queue.support import ENDS, LIST, begin, letters, owe, pass_time, publish, request, taken
from tests.support_verdicts import verdict

Output = pytest.CaptureFixture[str]

Broken = str | bytes | dict[str, str | bytes]

#: Malformed entries of the ledger: a string, or the fields of a hash.
BROKEN: dict[str, Broken] = {
    "text": "no hash",
    "bytes": b"\xff\xfe",
    "score alone": {"score": "y"},
    "score that is no number": {"score": "y", "score.queued": "1", "priority": "6", "request": "{}"},
    "queued at no time": {"score": "0", "score.queued": "soon", "priority": "6", "request": "{}"},
    "runs that are no number": {"score": "0", "score.queued": "1", "score.run": "x", "priority": "6", "request": "{}"},
    "no priority": {"score": "0", "score.queued": "0", "request": "{}"},
    "no request": {"score": "0", "score.queued": "1", "priority": "6"},
    "a request that is none": {"score": "0", "score.queued": "1", "priority": "6", "request": "{}"},
    "a request that is no text": {"score": "0", "score.queued": "1", "priority": "6", "request": b"\xff"},
    "a deep request": {"score": "0", "score.queued": "1", "priority": "6", "request": "[" * 100_000},
    "buried so often": {"score": "0", "score.queued": "1", "priority": "6", "request": "{}", "buried": "x"},
    "a state of its own": {"state": "lost"},
}


@pytest.fixture(params=BROKEN.values(), ids=BROKEN)
def broken(request: pytest.FixtureRequest) -> Broken:
    return request.param


def put(redis: Redis, name: str, broken: Broken) -> None:
    """Let the entry of a request be nothing that we wrote."""
    redis.delete(keys.request(name))
    if isinstance(broken, dict):
        redis.hset(keys.request(name), mapping=broken)
    else:
        redis.set(keys.request(name), broken)


def begins(ledger: Ledger, task: str) -> bool:
    try:
        begin(ledger, task)
    except NotOwed:
        return False
    return True


def test_a_claim(broken: Broken, ledger: Ledger, redis: Redis) -> None:
    owe(ledger, redis, request("sound"))
    put(redis, "broken", broken)
    redis.zadd(keys.OWED, {"broken": 0})
    for _ in range(2):
        assert not begins(ledger, "broken")
    assert ledger.held() == []
    assert begins(ledger, "sound")


def test_a_claim_of_what_can_be_read_but_for_its_request_makes_a_dead_letter(
    ledger: Ledger, redis: Redis, client: Client
) -> None:
    for name, text in {"none": "{}", "deep": "[" * 100_000, "bytes": b"\xff"}.items():
        owe(ledger, redis, request(name))
        redis.hset(keys.request(name), "request", text)
        assert not begins(ledger, name)
        assert client.state(name) == State.DEAD
    assert redis.zcard(keys.OWED) == 0
    assert [(letter.request_id, letter.code) for letter in client.dead_letters()] == [
        ("bytes", "internal_error"),
        ("deep", "internal_error"),
        ("none", "internal_error"),
    ]


def test_a_sweep(broken: Broken, ledger: Ledger, redis: Redis) -> None:
    # given a broken entry that is overdue, and a sound one that was lost
    owe(ledger, redis, request("sound"))
    redis.delete(LIST)
    put(redis, "broken", broken)
    redis.zadd(keys.OWED, {"broken": 0})
    pass_time(redis, 2000)
    # when workers sweep, again and again
    for _ in range(3):
        ledger.sweep()
        pass_time(redis, 100)
    # then the sound one is queued again, once
    assert redis.lrange(LIST, 0, -1).count("sound") == 1
    assert begins(ledger, "sound")


@pytest.mark.parametrize("name", ["text", "score alone", "queued at no time", "a state of its own", "nobody"])
def test_a_sweep_of_a_list_behind_a_name_that_says_nothing(name: str, ledger: Ledger, redis: Redis) -> None:
    # given a list whose next name has no sound entry, and a request that was lost
    if name in BROKEN:
        put(redis, name, BROKEN[name])
    owe(ledger, redis, request("sound"))
    redis.delete(LIST)
    redis.lpush(LIST, name)
    pass_time(redis, 2000)
    # when workers sweep
    assert ledger.sweep() == 1
    # then it is queued again, and comes first
    assert redis.lrange(LIST, 0, -1) == [name, "sound"]


def test_what_a_sweep_cannot_read_is_set_aside_and_told_of_once(
    ledger: Ledger, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    # given entries that no script of ours wrote, overdue before one that is sound and lost
    for name in ("text", "score alone", "queued at no time"):
        put(redis, name, BROKEN[name])
        redis.zadd(keys.OWED, {name: 0})
    owe(ledger, redis, request("sound"))
    redis.delete(LIST)
    pass_time(redis, 2000)
    # when workers sweep
    assert ledger.sweep() == 4
    # then the sound one is queued again, and the others are set aside and told of
    assert redis.lrange(LIST, 0, -1) == ["sound"]
    assert set(redis.zrange(keys.UNREAD, 0, -1)) == {"text", "score alone", "queued at no time"}
    assert redis.zrange(keys.OWED, 0, -1) == ["sound"]
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert ledger.sweep() == 0
    assert len(caplog.records) == 1


def test_a_verdict_is_published_whole_although_its_list_is_none(ledger: Ledger, redis: Redis) -> None:
    # given something else that has the name of the list of deliveries
    redis.set(keys.DELIVER_QUEUE, "something else has this name")
    # when a request is scored, then nothing of it is left half done
    publish(ledger, redis, "r", "callback")
    assert redis.zrange(keys.OWED, 0, -1) == ["r:callback"]
    assert redis.exists(keys.result("r"))
    # and its delivery comes as soon as there is room for its name
    redis.delete(keys.DELIVER_QUEUE)
    pass_time(redis, 2000)
    ledger.sweep()
    assert redis.lrange(keys.DELIVER_QUEUE, 0, -1) == ["r:callback"]


@pytest.mark.parametrize("queue", [LIST, keys.DELIVER_QUEUE])
def test_a_list_that_is_none_costs_no_task(queue: str, ledger: Ledger, redis: Redis) -> None:
    # given a task for each queue, and something else that has the name of one of them
    publish(ledger, redis, "sent", "callback")
    owe(ledger, redis, request("scored"))
    redis.delete(LIST, keys.DELIVER_QUEUE)
    redis.set(queue, "something else has this name")
    pass_time(redis, 2000)
    # when workers sweep meanwhile, which Redis may refuse, and again once it is gone
    with suppress(QueueUnavailable):
        ledger.sweep()
    redis.delete(LIST, keys.DELIVER_QUEUE)
    pass_time(redis, 2000)
    ledger.sweep()
    # then both are queued
    assert redis.lrange(LIST, 0, -1) + redis.lrange(keys.DELIVER_QUEUE, 0, -1) == ["scored", "sent:callback"]


def test_a_renewal(broken: Broken, ledger: Ledger, redis: Redis) -> None:
    # given tasks in hand, of which the first one's entry breaks
    owe(ledger, redis, request("broken"), request("sound"))
    with ledger.claim("broken"), ledger.claim("sound"):
        put(redis, "broken", broken)
        due = redis.zscore(keys.OWED, "sound")
        pass_time(redis, 500)
        # then the other is renewed
        ledger.renew()
        assert redis.zscore(keys.OWED, "sound") >= due


@pytest.mark.parametrize("end", ENDS)
def test_an_end(end: str, broken: Broken, ledger: Ledger, redis: Redis, client: Client) -> None:
    # given two tasks in hand, of which one's entry breaks
    owe(ledger, redis, request("broken"), request("sound"))
    claims = [begin(ledger, "broken"), begin(ledger, "sound")]
    put(redis, "broken", broken)
    # when both are ended
    for claim in claims:
        ENDS[end](claim)
    # then the other one is
    states = {"bury": State.DEAD, "mark": State.SCORING, "publish": State.SETTLED}
    assert client.state("sound") == states.get(end, State.SUBMITTED)


def test_a_delivery_that_arrived(broken: Broken, ledger: Ledger, redis: Redis, client: Client) -> None:
    for name in ("broken", "sound"):
        publish(ledger, redis, name, "callback")
    claims = [begin(ledger, "broken:callback"), begin(ledger, "sound:callback")]
    put(redis, "broken", broken)
    for claim in claims:
        claim.delivered()
    assert client.state("sound") == State.SETTLED


@pytest.mark.parametrize("correct", [True, False], ids=["a request", "a mistake"])
def test_an_admission(correct: bool, broken: Broken, ledger: Ledger, redis: Redis) -> None:
    # given an entry of the inbox whose id the broken one has, and another behind it
    put(redis, "broken", broken)
    before = redis.dump(keys.request("broken"))
    entry = request("broken").model_dump(mode="json", exclude_none=True)
    redis.lpush(keys.inbox(6), json.dumps(entry if correct else {**entry, "colour": "red"}))
    inbox.push(redis, [request("sound")])
    # when they are taken up
    assert ledger.admit(6) == 2
    # then the first is a dead letter, and the second a task
    assert [letter.code for letter in letters(redis)] == ["request_invalid"]
    assert redis.dump(keys.request("broken")) == before
    assert begins(ledger, "sound")


def test_a_replay(broken: Broken, ledger: Ledger, redis: Redis, redis_url: str, client: Client, capsys: Output) -> None:
    # given dead letters, of which the newest one's entry breaks
    owe(ledger, redis, request("sound"), request("broken"))
    for name in ("sound", "broken"):
        begin(ledger, name).bury(ValueError())
    put(redis, "broken", broken)
    # when all are put back
    main(["--redis-url", redis_url, "dead", "replay", "--all"])
    # then the other one is, and none is lost
    assert begins(ledger, "sound")
    assert {letter.request_id for letter in client.dead_letters()} == {"broken"} or redis.zscore(keys.OWED, "broken")


def test_a_drop(broken: Broken, ledger: Ledger, redis: Redis, redis_url: str, capsys: Output) -> None:
    owe(ledger, redis, request("sound"), request("broken"))
    for name in ("broken", "sound"):
        begin(ledger, name).bury(ValueError())
    put(redis, "broken", broken)
    assert main(["--redis-url", redis_url, "dead", "drop", "--all"]) == 0
    assert redis.hlen(keys.DEAD) == 0
    assert redis.ttl(keys.request("sound")) > 0


def test_dropping_what_there_is_no_room_for(broken: Broken, redis_url: str, redis: Redis) -> None:
    with closing(Ledger(redis_url, dead_letters_bytes=1)) as cramped:
        owe(cramped, redis, request("broken"), request("sound"), request("third"))
        begin(cramped, "broken").bury(ValueError())
        put(redis, "broken", broken)
        begin(cramped, "sound").bury(ValueError())
        begin(cramped, "third").bury(ValueError())
    assert [letter.request_id for letter in letters(redis)] == ["third"]
    assert redis.ttl(keys.request("sound")) > 0


#: Texts that may lie in the place of a dead letter or a verdict.
GARBAGE: dict[str, str | bytes] = {
    "words": "no JSON",
    "bytes": b"\xff\xfe",
    "deep": "[" * 100_000,
    "list": "[1]",
    "number": "1e999",
    "half": '{"id": "half", "request_id": "sound"}',
    "strange": '{"request_id": ["sound"], "died_at": "never", "message": "\\ud800"}',
}


@pytest.fixture
def garbage(redis: Redis) -> None:
    for name, text in GARBAGE.items():
        redis.hset(keys.DEAD, name, text)
        redis.set(keys.result(name), text)
    redis.hset(keys.DEAD, b"\xff", b"\xff")
    redis.lpush(keys.result("queue"), "no string")


@pytest.mark.usefixtures("garbage")
def test_dead_letters_are_listed_put_back_and_dropped_beside_what_is_none(
    ledger: Ledger, redis: Redis, redis_url: str, client: Client, capsys: Output, caplog: pytest.LogCaptureFixture
) -> None:
    # given a dead letter among things that are none
    owe(ledger, redis, request("sound"), request("other"))
    for name in ("sound", "other"):
        begin(ledger, name).bury(ValueError())
    sound, other = letters(redis)
    # when they are listed, then it is told of, and the others are named in the log
    assert main(["--redis-url", redis_url, "dead", "list", "--json"]) == 0
    told = [json.loads(line)["id"] for line in capsys.readouterr().out.splitlines()]
    assert told == [other.id, sound.id]
    assert all(name in caplog.text for name in GARBAGE)
    for name in GARBAGE:
        with pytest.raises(UsageError, match="can only be dropped"):
            client.dead_letter(name)
    # and when all are put back, it is, and the others stay until they are dropped
    assert main(["--redis-url", redis_url, "dead", "replay", "--all"]) == 0
    assert begins(ledger, "sound")
    assert begins(ledger, "other")
    assert redis.hlen(keys.DEAD) == len(GARBAGE) + 1
    assert main(["--redis-url", redis_url, "dead", "drop", "--all"]) == 0
    assert redis.hlen(keys.DEAD) == 0


@pytest.mark.usefixtures("garbage")
def test_dead_letters_have_as_much_room_as_before_once_what_was_none_is_dropped(
    ledger: Ledger, redis: Redis, client: Client
) -> None:
    for name in client.dead_letter_ids():
        assert client.drop(name)
    owe(ledger, redis, request())
    begin(ledger).bury(ValueError())
    assert int(redis.get(keys.DEAD_BYTES)) == sum(map(len, redis.hvals(keys.DEAD)))


@pytest.mark.usefixtures("garbage")
def test_verdicts_are_exported_beside_what_is_none(
    ledger: Ledger, redis: Redis, redis_url: str, capsys: Output, caplog: pytest.LogCaptureFixture
) -> None:
    publish(ledger, redis, "sound")
    assert main(["--redis-url", redis_url, "export"]) == 0
    assert [json.loads(line)["request_id"] for line in capsys.readouterr().out.splitlines()] == ["sound"]
    assert all(keys.result(name) in caplog.text for name in GARBAGE)


@pytest.mark.usefixtures("garbage")
def test_a_request_whose_verdict_is_none_ends_without_one(ledger: Ledger, redis: Redis, client: Client) -> None:
    owe(ledger, redis, *(request(name, "callback") for name in (*GARBAGE, "queue", "sound")))
    for name in (*GARBAGE, "queue"):
        assert not begin(ledger, name).publish(verdict(name))
        assert client.state(name) == State.SETTLED
    assert begin(ledger, "sound").publish(verdict("sound"))
    assert taken(redis, keys.DELIVER_QUEUE) == "sound:callback"


@pytest.mark.parametrize("key", [keys.DEAD, keys.DEAD_ORDER, keys.DEAD_BYTES, keys.DEAD_DROPPED])
def test_a_mistake_waits_until_it_can_be_a_dead_letter_and_is_one_then(key: str, ledger: Ledger, redis: Redis) -> None:
    # given something else that has the name of what dead letters are kept under
    owe(ledger, redis, request("before"))
    begin(ledger, "before").bury(ValueError())
    redis.delete(key)
    redis.set(key, "something else has this name")
    redis.lpush(keys.inbox(6), "no JSON")
    inbox.push(redis, [request("behind")])
    # when what comes cannot be a dead letter, however often that is tried
    for _ in range(3):
        with suppress(QueueUnavailable):
            ledger.admit(6)
    # then it stays until it can, and is one then
    redis.delete(key)
    while ledger.admit(6):
        pass
    assert [json.loads(text)["kind"] for text in redis.hvals(keys.DEAD)].count("request") == 1
    assert begins(ledger, "behind")


def test_dead_letters_that_were_deleted_by_hand_leave_their_room(redis_url: str, redis: Redis) -> None:
    with closing(Ledger(redis_url, dead_letters_bytes=3000)) as cramped:
        owe(cramped, redis, *(request(f"r{number}") for number in range(8)))
        for number in range(4):
            begin(cramped, f"r{number}").bury(ValueError())
        # given somebody who deletes them all with a command of Redis
        redis.delete(keys.DEAD)
        # then there is room for others
        for number in range(4, 7):
            begin(cramped, f"r{number}").bury(ValueError())
    assert [letter.request_id for letter in letters(redis)] == ["r4", "r5", "r6"]
