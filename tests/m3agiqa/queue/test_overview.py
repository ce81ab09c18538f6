from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from redis import Redis

from m3agiqa.client import Client
from m3agiqa.contract import Failure, PolicyRef
from m3agiqa.errors import FetchRefused, QueueUnavailable
from m3agiqa.queue import inbox, keys, overview
from m3agiqa.queue.connection import Connection
from m3agiqa.queue.dead import DeadLetters
from m3agiqa.queue.ledger import Ledger
from m3agiqa.queue.overview import Overview, WorkerSeen
from tests.m3agiqa.queue.support import begin, begin_again, letters, owe, pass_time, publish, request, taken
from tests.support_verdicts import verdict

WORKER = WorkerSeen(name="host:7", queues=("score", "deliver"), model="mini", held=3, started_at=5.5, version="1.0")


@pytest.fixture
def connection(redis_url: str) -> Iterator[Connection]:
    connection = Connection(redis_url)
    yield connection
    connection.close()


def test_an_empty_redis_has_nothing_to_show(connection: Connection) -> None:
    found = overview.read(connection)
    assert found.waiting == found.oldest_age_s == dict.fromkeys(keys.PRIORITIES, 0)
    assert found.dead_letters == found.counts == {}
    assert (found.tasks_owed, found.tasks_overdue, found.deliveries_waiting, found.workers) == (0, 0, 0, ())


def test_scripts_count_what_happens_on_the_way_of_a_request(
    ledger: Ledger, redis: Redis, connection: Connection
) -> None:
    # given requests of which one is scored and delivered to one place of two, and one fails
    policy = PolicyRef(name="strict", version=2, sha256="0" * 12)
    owe(ledger, redis, request("good", "callback", "s3"), request("bad"), request("good", "callback", "s3"))
    assert begin(ledger, "good").publish(verdict("good").model_copy(update={"policy": policy}))
    failed = {"status": "failed", "error": Failure.from_error(FetchRefused("404"))}
    assert begin(ledger, "bad").publish(verdict("bad").model_copy(update=failed))
    begin(ledger, "good:callback").delivered()
    begin(ledger, "good:s3").bury(FetchRefused("403"))
    # and an entry that is no request
    redis.lpush(keys.inbox(9), "garbage")
    assert ledger.admit(9) == 1
    # when somebody looks
    found = overview.read(connection)
    # then each was counted once
    assert found.counts == {
        "requests_admitted|6": 2,
        "requests_refused|request_invalid": 1,
        "verdicts|scored|accept|strict": 1,
        "verdicts|failed||": 1,
        "failures|fetch_refused": 1,
        "requests_settled": 1,
        "deliveries|callback|delivered": 1,
        "deliveries|s3|dead": 1,
        "dead_letters_made|s3|fetch_refused": 1,
        "dead_letters_made|request|request_invalid": 1,
    }
    assert found.dead_letters == {"fetch_refused": 1, "request_invalid": 1}
    assert found.dead_letters_bytes == sum(map(len, redis.hvals(keys.DEAD)))
    # and a letter that is dropped or replayed is there no more
    for letter in letters(redis):
        dead = DeadLetters(connection)
        assert dead.replay(letter) if letter.kind == "s3" else dead.drop(letter.id)
    assert overview.read(connection).dead_letters == {}


def test_a_run_whose_worker_vanished_is_counted_once(ledger: Ledger, redis: Redis, connection: Connection) -> None:
    # given a task that loses two workers, and another one that is put off
    owe(ledger, redis, request("r"), request("later"))
    begin(ledger)
    begin(ledger, "later").release(why="busy")
    begin_again(ledger, redis)
    pass_time(redis, 2000, "r")
    for _ in range(3):
        ledger.sweep()
    # then only lost runs count
    assert overview.read(connection).counts["leases_lost|score"] == 2


def test_what_waits_is_told_by_priority_with_its_age(ledger: Ledger, redis: Redis, connection: Connection) -> None:
    # given one request in the ledger, one in an inbox since an hour ago, and a verdict to deliver
    publish(ledger, redis, "done", "callback")
    assert taken(redis) == "done"
    owe(ledger, redis, request("r"))
    redis.hset(keys.request("r"), "score.queued", redis.time()[0] - 100)
    hour_ago = datetime.now(UTC) - timedelta(hours=1)
    inbox.push(redis, [request("old").model_copy(update={"submitted_at": hour_ago, "priority": 0})])
    pass_time(redis, 2000, "r")
    # when somebody looks
    found = overview.read(connection)
    # then
    assert found.waiting == {0: 1, 3: 0, 6: 1, 9: 0}
    assert 3600 <= found.oldest_age_s[0] < 3700
    assert 100 <= found.oldest_age_s[6] < 200
    assert (found.deliveries_waiting, found.tasks_owed, found.tasks_overdue) == (1, 2, 1)


@pytest.mark.parametrize("told", ["x", "2026-01-01T00:00:00", "1990-01-01T00:00:00Z", "9999-12-31T23:59:59Z", 7, None])
def test_a_producer_that_names_no_sound_time_makes_no_age(told: object, redis: Redis, connection: Connection) -> None:
    redis.lpush(keys.inbox(0), json.dumps({"submitted_at": told}))
    found = overview.read(connection)
    assert (found.waiting[0], found.oldest_age_s[0]) == (1, 0)


@pytest.mark.parametrize("entry", ["garbage", "[1]", "x" * 70_000, '{"submitted_at": {}}', "[" * 5000, b"\xff\x00"])
def test_what_a_stranger_pushed_is_only_counted(entry: str | bytes, redis: Redis, connection: Connection) -> None:
    redis.lpush(keys.inbox(0), entry)
    assert overview.read(connection).waiting[0] == 1


def test_what_a_stranger_wrote_among_the_counts_is_left_out(redis: Redis, connection: Connection) -> None:
    # given fields that no script writes
    strange = ["https://host/?secret|x", "failures|https://host", "failures", "requests_settled|x", "other|x"]
    redis.hset(keys.COUNTS, mapping={**dict.fromkeys(strange, 1), "failures|a": "x", "failures|b": -1, "failures|c": 3})
    redis.hset(keys.DEAD_CODES, mapping={"https://host": 1, "busy": 2, "gone": 0})
    redis.set(keys.DEAD_BYTES, "many")
    # then they are not shown
    found = overview.read(connection)
    assert (found.counts, found.dead_letters, found.dead_letters_bytes) == ({"failures|c": 3}, {"busy": 2}, 0)


@pytest.mark.parametrize("key", [keys.COUNTS, keys.DEAD_CODES, keys.FAILING])
def test_a_key_that_cannot_count_stops_no_work(key: str, ledger: Ledger, redis: Redis) -> None:
    # given a foreign key where the counts belong
    redis.set(key, "foreign")
    # when requests go their way
    owe(ledger, redis, request("r", "callback"), request("other"))
    assert begin(ledger, "r").publish(verdict("r"))
    begin(ledger, "other").bury(ValueError())
    begin(ledger, "r:callback").postpone(0, "503", "hooks.example")
    begin_again(ledger, redis, "r:callback").delivered("hooks.example")
    # then they do
    assert redis.hget(keys.request("r"), "state") == "settled"
    assert [letter.task for letter in letters(redis)] == ["other"]


def test_letters_that_were_deleted_by_hand_count_no_more(ledger: Ledger, redis: Redis, connection: Connection) -> None:
    owe(ledger, redis, request("a"), request("b"))
    begin(ledger, "a").bury(ValueError())
    redis.delete(keys.DEAD)
    begin(ledger, "b").bury(ValueError())
    assert overview.read(connection).dead_letters == {"internal_error": 1}


def test_workers_are_those_that_said_so_a_moment_ago(redis: Redis, connection: Connection) -> None:
    # given a worker, one that fell silent, and one whose entry cannot be read
    overview.register(connection, WORKER)
    overview.register(connection, WORKER.model_copy(update={"name": "host:8"}))
    redis.zadd(keys.WORKERS, {"host:8": 0, "host:9": redis.time()[0]})
    redis.delete(keys.worker("host:8"))
    redis.hset(keys.worker("host:9"), "held", "many")
    # when somebody looks
    found = overview.read(connection)
    # then it is as it said, and goes by itself
    assert found.workers == (WORKER,)
    assert (found.workers_of("score"), found.leases_held) == (1, 3)
    assert 0 < redis.ttl(keys.worker("host:7")) <= overview.GONE_AFTER_S
    # and the next one that says so removes the silent one
    overview.register(connection, WORKER)
    assert set(redis.zrange(keys.WORKERS, 0, -1)) == {"host:7", "host:9"}


def test_the_json_can_be_read_again(connection: Connection) -> None:
    overview.register(connection, WORKER)
    found = overview.read(connection)
    assert Overview.model_validate_json(found.model_dump_json()) == found
    assert found.redis_noeviction


def test_a_redis_that_is_away_is_an_error(unused_port: int) -> None:
    with pytest.raises(QueueUnavailable):
        overview.read(Connection(f"redis://127.0.0.1:{unused_port}", patience_s=0))


def test_a_receiver_fails_from_an_attempt_that_failed_until_one_that_did_not(
    ledger: Ledger, redis: Redis, connection: Connection
) -> None:
    # given verdicts for two places each
    for name in ("one", "two"):
        publish(ledger, redis, name, "callback", "s3")
    # when an attempt fails, and a delivery is given up
    begin(ledger, "one:callback").postpone(0, "503", "hooks.example")
    begin(ledger, "one:s3").bury(FetchRefused("403"), "s3://out")
    # then both receivers are known, the latest first
    assert list(overview.read(connection).receivers_failing) == ["s3://out", "hooks.example"]
    # and what is put off, or given up for another reason, says nothing of its receiver
    begin(ledger, "two:s3").release(why="busy")
    begin(ledger, "two:callback").bury(ValueError())
    assert len(overview.read(connection).receivers_failing) == 2
    # until one takes a verdict
    begin_again(ledger, redis, "one:callback").delivered("hooks.example")
    assert list(overview.read(connection).receivers_failing) == ["s3://out"]


def test_a_run_that_is_no_longer_the_latest_says_nothing_of_its_receiver(
    ledger: Ledger, redis: Redis, connection: Connection
) -> None:
    publish(ledger, redis, "r", "callback")
    late = begin(ledger, "r:callback")
    begin_again(ledger, redis, "r:callback")
    late.postpone(0, "503", "hooks.example")
    late.bury(ValueError(), "hooks.example")
    assert overview.read(connection).receivers_failing == {}


def test_only_the_latest_receivers_of_an_hour_are_kept(ledger: Ledger, redis: Redis, connection: Connection) -> None:
    # given more receivers than are kept, and one that failed long ago
    now = redis.time()[0]
    redis.zadd(keys.FAILING, {f"{number}.example": now - 100 + number for number in range(60)})
    redis.zadd(keys.FAILING, {"old.example": now - 3700})
    assert len(overview.read(connection).receivers_failing) == 50
    # when another one fails
    publish(ledger, redis, "r", "callback")
    begin(ledger, "r:callback").postpone(0, "503", "hooks.example")
    # then it has the place of the one that failed first
    kept = redis.zrange(keys.FAILING, 0, -1)
    assert (len(kept), kept[0], kept[-1]) == (50, "11.example", "hooks.example")
    # and all are forgotten when nothing fails for an hour
    assert 0 < redis.ttl(keys.FAILING) <= 3600


def test_a_receiver_that_failed_an_hour_ago_is_not_shown(redis: Redis, connection: Connection) -> None:
    now = redis.time()[0]
    redis.zadd(keys.FAILING, {"old.example": now - 3700, "new.example": now - 3500})
    [(name, ago_s)] = overview.read(connection).receivers_failing.items()
    assert name == "new.example"
    assert 3500 <= ago_s < 3600


def test_what_a_stranger_wrote_among_the_receivers_is_left_out(redis: Redis, connection: Connection) -> None:
    now = redis.time()[0]
    strange = ["https://host/?secret", "a b", "", "x" * 300, "\x1b[31mred", "\u202eevil"]
    redis.zadd(keys.FAILING, {**dict.fromkeys(strange, now), "[2001:db8::1]": "+inf", "s3://my_bucket": now})
    found = overview.read(connection).receivers_failing
    assert found.keys() == {"[2001:db8::1]", "s3://my_bucket"}
    assert found["[2001:db8::1]"] == 0


def test_images_beside_their_requests_are_told_in_bytes(client: Client, redis: Redis, connection: Connection) -> None:
    # given images that wait, and what expired or is no number in the count
    client.submit(image=b"x" * 100, prompt="", request_id="a")
    client.submit(image=b"y" * 23, prompt="", request_id="b")
    redis.hset(keys.IMAGES, mapping={"1": 1000, "99999999": "many"})
    assert overview.read(connection).images_waiting_bytes == 123
    # when one is answered
    client.cancel("a")
    assert overview.read(connection).images_waiting_bytes == 23
