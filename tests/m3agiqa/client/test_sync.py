from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

import producers
from m3agiqa.client import Client
from m3agiqa.contract import Failure, ScoreRequest, Verdict
from m3agiqa.errors import (
    ConfigError,
    NewerVersion,
    QueueFull,
    QueueUnavailable,
    RequestConflict,
    RequestInvalid,
    ResultTimeout,
)
from m3agiqa.queue import inbox, keys
from m3agiqa.queue.ledger import Ledger
from m3agiqa.queue.state import State
from tests.support import eventually
from tests.support_verdicts import verdict


@pytest.fixture
def ledger(redis_url: str) -> Iterator[Ledger]:
    with closing(Ledger(redis_url)) as ledger:
        yield ledger


def requests(redis: Redis, priority: int = 3) -> list[ScoreRequest]:
    """What waits in an inbox, the next one first."""
    return [inbox.parse(text, priority) for text in reversed(redis.lrange(keys.inbox(priority), 0, -1))]


@pytest.fixture
def own_policies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The operator's folder of policies, with one called `strict`, as the environment names it."""
    folder = tmp_path / "policies"
    folder.mkdir()
    (folder / "strict.yaml").write_text("", encoding="utf-8")
    monkeypatch.setenv("M3AGIQA_CONFIG_DIR", str(tmp_path))
    return folder


def test_a_policy_that_no_worker_can_find_is_refused_where_their_folder_is_known(
    client: Client, redis: Redis, own_policies: Path
) -> None:
    # when a request names a policy of the operator's, or one that ships, it is taken
    client.submit_many(
        [{"image_url": "https://host/a.png", "prompt": "", "policy": name} for name in ("strict", "default")]
    )
    # and when it names none of them, nothing is enqueued
    with pytest.raises(RequestInvalid, match=r"policy: there is no strct; one of: .*strict"):
        client.submit(image_url="https://host/a.png", prompt="", policy="strct")
    assert [request.policy for request in requests(redis)] == ["strict", "default"]


@pytest.mark.parametrize("folder", ["", "missing", "models-alone"])
def test_a_policy_is_left_to_the_worker_where_nobody_knows_its_folder(
    client: Client, redis: Redis, own_policies: Path, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a producer without that folder, or whose folder has no policies in it
    (own_policies.parent / "models-alone").mkdir()
    monkeypatch.setenv("M3AGIQA_CONFIG_DIR", folder and str(own_policies.parent / folder))
    # then a policy that is unknown here is enqueued
    client.submit(image_url="https://host/a.png", prompt="", policy="strct")
    assert [request.policy for request in requests(redis)] == ["strct"]


def test_public_names() -> None:
    assert set(producers.__all__) == {"AsyncClient", "Client", "ScoreRequest", "State", "Verdict"}


def test_submit_puts_a_request_into_the_inbox_of_its_priority(client: Client, ledger: Ledger, redis: Redis) -> None:
    # when an image is submitted with everything there is
    request_id = client.submit(
        image_url="s3://bucket/a.png",
        prompt="a cat",
        callback_url="https://host/hook",
        s3_uri="s3://out/verdicts",
        aspects=["quality"],
        policy="observe",
        priority=6,
        request_id="my-id",
        metadata={"user": 7},
        batch_id="monday",
    )
    # then it lies there, complete, and nothing else does
    assert request_id == "my-id"
    assert redis.keys() == [keys.inbox(6)]
    [request] = requests(redis, 6)
    assert request == ScoreRequest(
        image_url="s3://bucket/a.png",
        prompt="a cat",
        callback_url="https://host/hook",
        s3_uri="s3://out/verdicts",
        aspects=("quality",),
        policy="observe",
        priority=6,
        request_id="my-id",
        metadata={"user": 7},
        batch_id="monday",
        version="1.2",
        submitted_at=request.submitted_at,
    )
    # and it has a state as soon as a worker took it in
    assert client.state("my-id") is None
    assert ledger.admit(6) == 1
    assert client.state("my-id") == State.SUBMITTED


FIELDS: dict[str, Any] = {"image_url": "https://host/a.png", "prompt": ""}


def test_a_request_submitted_twice_is_one_task(client: Client, ledger: Ledger, redis: Redis) -> None:
    # when a request is submitted again, and another one under its id before a worker took the first in
    for prompt in ("first", "first", "second"):
        assert client.submit(image_url="https://host/a.png", prompt=prompt, request_id="twice") == "twice"
    assert ledger.admit(3) == 3
    # then the first one stands, and the other one is a dead letter
    assert redis.lrange("score:3", 0, -1) == ["twice"]
    with ledger.claim("twice") as claim:
        assert claim.request.prompt == "first"
    assert len(client.history("twice")) == 2
    assert ["second" in letter.message for letter in client.dead_letters()] == [True]


def test_another_request_under_an_id_that_is_taken_is_refused(client: Client, ledger: Ledger, redis: Redis) -> None:
    # given a request that a worker took in
    client.submit(**FIELDS, request_id="taken")
    ledger.admit(3)
    # when others are submitted, one under its id
    requests = [{**FIELDS, "request_id": "other"}, {**FIELDS, "request_id": "taken", "prompt": "a secret wish"}]
    with pytest.raises(RequestConflict, match=r"another request stands under taken \(0 enqueued\)") as refused:
        client.submit_many(requests)
    # then nothing of this round trip is enqueued, and the refusal names the id and nothing else
    assert (refused.value.request_ids, refused.value.submitted) == (("taken",), ())
    assert redis.llen(keys.inbox(3)) == 0
    assert "secret" not in str(refused.value)
    # and the same request may come again, however later, more urgent or labelled
    client.submit(**FIELDS, request_id="taken", priority=0, batch_id="monday")
    assert ledger.admit(0) == 1
    assert list(client.dead_letters()) == []


def test_two_requests_under_one_id_are_refused_together(client: Client, redis: Redis) -> None:
    same = [{**FIELDS, "request_id": "r"}] * 2
    assert client.submit_many(same) == ["r", "r"]
    with pytest.raises(RequestConflict, match="stands under r "):
        client.submit_many([*same, {**FIELDS, "request_id": "r", "prompt": "other"}])
    assert redis.llen(keys.inbox(3)) == 2


def test_a_conflict_says_what_was_enqueued_before(client: Client, ledger: Ledger, redis: Redis) -> None:
    client.submit_many([{**FIELDS, "request_id": f"t{number}"} for number in range(10)])
    ledger.admit(3)
    others = [{**FIELDS, "request_id": f"t{number}", "prompt": "other"} for number in range(10)]
    with pytest.raises(RequestConflict, match=r"t7 and 2 more \(500 enqueued\)") as refused:
        client.submit_many([*[FIELDS] * 500, *others])
    assert (len(refused.value.submitted), len(refused.value.request_ids)) == (500, 10)


def test_scoring_is_submitting_and_waiting(client: Client, ledger: Ledger, redis: Redis) -> None:
    with ThreadPoolExecutor(1) as threads:
        scored = threads.submit(client.score, **FIELDS, request_id="r", timeout=60)
        eventually(lambda: ledger.admit(3), "it is submitted")
        with ledger.claim("r") as claim:
            claim.publish(verdict("r"))
        assert scored.result(30).status == "scored"
    with pytest.raises(ResultTimeout, match=r"within 0\.05 s"):
        client.score(**FIELDS, timeout=0.05)


def test_scoring_anew_waits_for_another_verdict_than_the_failure(client: Client, ledger: Ledger, redis: Redis) -> None:
    # given a request that failed
    client.submit(**FIELDS, request_id="r")
    ledger.admit(3)
    failure = Failure(code="fetch_refused", message="404", retryable=False)
    with ledger.claim("r") as claim:
        claim.publish(verdict("r", status="failed", error=failure))
    assert client.score(**FIELDS, request_id="r", timeout=60).status == "failed"
    # when it is scored anew, then its verdict is the new one
    with ThreadPoolExecutor(1) as threads:
        scored = threads.submit(client.score, **FIELDS, request_id="r", retry_failed=True, timeout=60)
        eventually(lambda: redis.pubsub_numsub(keys.done("r"))[0][1] == 1, "somebody waits")
        assert ledger.admit(3)
        with ledger.claim("r") as claim:
            claim.publish(verdict("r"))
        assert scored.result(30).status == "scored"
    # and one that was scored is given as it is
    assert client.score(**FIELDS, request_id="r", retry_failed=True, timeout=60).status == "scored"


def test_verdicts_come_as_they_are_there(client: Client, redis: Redis) -> None:
    for name in ("b", "a"):
        redis.set(keys.result(name), verdict(name).model_dump_json())
    assert {one.request_id for one in client.as_completed(["a", "b", "a"], timeout=60)} == {"a", "b"}
    with pytest.raises(ResultTimeout, match=r"1 of 2 requests within 0\.1 s"):
        list(client.as_completed(["a", "nobody"], timeout=0.1))


def test_results_of_a_batch(client: Client, redis: Redis) -> None:
    for name, batch_id in (("a", "monday"), ("b", "tuesday"), ("c", None)):
        redis.set(keys.result(name), verdict(name, batch_id=batch_id).model_dump_json())
    assert [one.request_id for one in client.results("monday")] == ["a"]


def test_submit_refuses_when_too_many_wait(redis_url: str, ledger: Ledger, redis: Redis) -> None:
    # given a client that lets five wait, and three that do, of which a worker took in some
    with Client(redis_url, max_queued=5) as client:
        fields = {"image_url": "https://host/a.png", "prompt": ""}
        client.submit_many([{**fields, "request_id": f"r{number}", "priority": 9} for number in range(2)])
        ledger.admit(9)
        client.submit_many([{**fields, "request_id": "r2", "priority": 0}])
        # when it submits four more
        with pytest.raises(QueueFull, match="5 requests wait already") as refused:
            client.submit_many([{**fields, "request_id": name} for name in ("a", "b", "c", "d")])
        # then those for which there was room wait, and it says when to come back
        assert refused.value.submitted == ("a", "b")
        assert refused.value.retry_after_s == 1
        assert [request.request_id for request in requests(redis)] == ["a", "b"]
        # and there is room again as soon as one is taken
        redis.rpop("score:9")
        assert client.submit(**fields, request_id="c") == "c"
        with pytest.raises(QueueFull) as refused:
            client.submit(**fields, request_id="d")
        assert refused.value.submitted == ()


@pytest.mark.parametrize(("oldest_s", "wait_s"), [("5", 1), ("200", 20), ("86400", 60)])
def test_who_is_refused_comes_back_the_later_the_longer_others_wait(
    oldest_s: str, wait_s: float, redis_url: str, redis: Redis
) -> None:
    redis.set(keys.OLDEST, oldest_s)
    with Client(redis_url, max_queued=0) as client, pytest.raises(QueueFull) as refused:
        client.submit(image_url="https://host/a.png", prompt="")
    assert refused.value.retry_after_s == wait_s


def test_a_request_nobody_knows_has_no_state(client: Client) -> None:
    assert client.state("nobody") is None
    assert client.history("nobody") == ()


def test_submit_makes_up_an_id_and_takes_priority_3(client: Client, redis: Redis) -> None:
    first, second = (client.submit(image_url="https://host/a.png", prompt="") for _ in range(2))
    assert [request.request_id for request in requests(redis)] == [first, second]
    assert first != second


def test_submit_refuses_what_is_wrong_without_quoting_it(client: Client, redis: Redis) -> None:
    with pytest.raises(RequestInvalid, match="image_url") as caught:
        client.submit(image_url="file:///etc/passwd", prompt="a secret wish")
    assert "passwd" not in str(caught.value)
    assert redis.keys() == []


def test_submit_many_keeps_the_order_over_many_chunks(client: Client, redis: Redis) -> None:
    # given more requests than fit in two chunks, as they come
    submitted = (
        ScoreRequest(image_url="https://host/a.png", prompt="", request_id=f"r{number}")
        if number % 2
        else {"image_url": "https://host/a.png", "prompt": "", "request_id": f"r{number}"}
        for number in range(1100)
    )
    # when they are submitted
    ids = client.submit_many(submitted)
    # then all are there, the first to be taken first
    assert ids == [f"r{number}" for number in range(1100)]
    assert [request.request_id for request in requests(redis)] == ids


def test_submit_many_stops_at_what_is_wrong(client: Client, redis: Redis) -> None:
    fields = {"image_url": "https://host/a.png", "prompt": ""}
    with pytest.raises(RequestInvalid, match="prompt"):
        client.submit_many([*[fields] * 700, {**fields, "prompt": 7}])
    assert redis.llen(keys.inbox(3)) == 500


def test_submit_many_keeps_each_priority_apart(client: Client, redis: Redis) -> None:
    fields = {"image_url": "https://host/a.png", "prompt": ""}
    ids = client.submit_many([{**fields, "priority": (0, 3, 3, 9, 0)[number % 5]} for number in range(50)])
    for priority, turns in ((0, (0, 4)), (3, (1, 2)), (9, (3,))):
        submitted = [request.request_id for request in requests(redis, priority)]
        assert submitted == [name for number, name in enumerate(ids) if number % 5 in turns]


def test_submit_many_of_nothing(client: Client) -> None:
    assert client.submit_many([]) == []


def test_result_that_is_there_already(client: Client, redis: Redis) -> None:
    redis.set(keys.result("a"), verdict("a").model_dump_json())
    assert client.result("a", timeout=0).request_id == "a"


@pytest.mark.parametrize("announced", [True, False], ids=["announced", "not announced"])
def test_result_that_comes_while_waiting(announced: bool, client: Client, redis: Redis) -> None:
    # given somebody who waits
    got: list[Verdict] = []
    waiting = threading.Thread(target=lambda: got.append(client.result("a", timeout=60)))
    waiting.start()
    eventually(lambda: redis.pubsub_numsub(keys.done("a"))[0][1] == 1, "somebody waits")
    # when the verdict comes, whether or not its announcement does
    redis.set(keys.result("a"), verdict("a").model_dump_json())
    if announced:
        redis.publish(keys.done("a"), "")
    # then the wait is over
    waiting.join(30)
    assert [one.request_id for one in got] == ["a"]


@pytest.mark.parametrize("timeout", [0, 0.1])
def test_result_that_does_not_come(timeout: float, client: Client) -> None:
    with pytest.raises(ResultTimeout, match="worker running"):
        client.result("a", timeout=timeout)


def test_a_redis_that_is_not_there(unused_port: int) -> None:
    url = f"redis://:hush@127.0.0.1:{unused_port}/0"
    with Client(url) as client:
        for call in (
            lambda: client.submit(image_url="https://host/a.png", prompt=""),
            lambda: client.result("a"),
            lambda: list(client.results()),
        ):
            with pytest.raises(QueueUnavailable, match=f"127.0.0.1:{unused_port} cannot be reached") as caught:
                call()
            assert "hush" not in str(caught.value)


@pytest.mark.parametrize("key", ["score:3", keys.inbox(3)])
def test_a_redis_that_refuses(key: str, client: Client, redis: Redis) -> None:
    redis.set(key, "something else has this name")
    with pytest.raises(QueueUnavailable, match="refused a command: WRONGTYPE"):
        client.submit(image_url="https://host/a.png", prompt="")


def test_a_url_that_is_none() -> None:
    with pytest.raises(ConfigError, match="redis://"):
        Client("localhost:6379")


def test_results_are_all_that_are_kept(client: Client, redis: Redis) -> None:
    for number in range(1200):
        redis.set(keys.result(f"r{number}"), verdict(f"r{number}").model_dump_json())
    assert sorted(one.request_id for one in client.results()) == sorted(f"r{number}" for number in range(1200))


def test_a_verdict_of_a_later_version_is_told_from_none(client: Client, redis: Redis) -> None:
    redis.set(keys.result("a"), '{"version": "2.0", "request_id": "a"}')
    with pytest.raises(NewerVersion, match="the verdict of a cannot be read"):
        client.result("a", timeout=0)
