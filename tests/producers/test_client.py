from __future__ import annotations

import threading
from datetime import UTC, datetime

import pytest
from redis import Redis

import producers
from m3agiqa.contract import Decision, ScoreRequest, Verdict
from m3agiqa.errors import ConfigError, QueueFull, QueueUnavailable, RequestInvalid, ResultTimeout
from producers import Client, State, keys, message
from tests.support import eventually


def verdict(request_id: str) -> Verdict:
    now = datetime.now(UTC)
    return Verdict(
        request_id=request_id,
        status="scored",
        decision=Decision.ACCEPT,
        reasons=(),
        aspects={},
        policy=None,
        model=None,
        image=None,
        timings_ms={},
        attempt=1,
        submitted_at=now,
        scored_at=now,
        metadata={},
        error=None,
    )


def test_public_names() -> None:
    assert set(producers.__all__) == {"Client", "ScoreRequest", "State", "Verdict"}


def test_submit_puts_a_message_on_the_list_of_its_priority(client: Client, redis: Redis) -> None:
    # when a picture is submitted with everything there is
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
    )
    # then a message that a worker takes lies there
    assert request_id == "my-id"
    request = ScoreRequest.parse(message.parse(redis.rpop("score:6"), keys.SCORE_QUEUE).payload)
    assert request.callback_url == "https://host/hook"
    assert request.metadata == {"user": 7}
    # and it is owed
    assert set(redis.keys()) == {keys.OWED, keys.request("my-id")}
    assert client.state("my-id") == State.SUBMITTED


def test_a_request_submitted_twice_is_one_task(client: Client, redis: Redis) -> None:
    for prompt in ("first", "second"):
        assert client.submit(image_url="https://host/a.png", prompt=prompt, request_id="twice") == "twice"
    [raw] = redis.lrange("score:3", 0, -1)
    assert message.parse(raw, keys.SCORE_QUEUE).payload["prompt"] == "first"
    assert len(client.history("twice")) == 1


def test_submit_refuses_when_too_many_wait(redis_url: str, redis: Redis) -> None:
    # given a client that lets five wait, and three that do
    with Client(redis_url, max_queued=5) as client:
        fields = {"image_url": "https://host/a.png", "prompt": ""}
        client.submit_many([{**fields, "request_id": f"r{number}", "priority": 9} for number in range(3)])
        # when it submits four more, of which one is known already
        with pytest.raises(QueueFull, match="5 requests wait already") as refused:
            client.submit_many([{**fields, "request_id": name} for name in ("a", "r0", "b", "c")])
        # then those for which there was room are queued, and it says when to come back
        assert refused.value.submitted == ("a", "r0", "b")
        assert 1 <= refused.value.retry_after_s <= 60
        assert client.state("c") is None
        assert redis.llen("score:3") == 2
        # and there is room again as soon as one is taken
        redis.rpop("score:9")
        assert client.submit(**fields, request_id="c") == "c"


def test_a_request_nobody_knows_has_no_state(client: Client) -> None:
    assert client.state("nobody") is None
    assert client.history("nobody") == ()


def test_submit_makes_up_an_id_and_takes_priority_3(client: Client, redis: Redis) -> None:
    first, second = (client.submit(image_url="https://host/a.png", prompt="") for _ in range(2))
    assert first != second
    assert redis.llen("score:3") == 2


def test_submit_refuses_what_is_wrong_without_quoting_it(client: Client, redis: Redis) -> None:
    with pytest.raises(RequestInvalid, match="image_url") as caught:
        client.submit(image_url="file:///etc/passwd", prompt="a secret wish")
    assert "passwd" not in str(caught.value)
    assert redis.keys() == []


def test_submit_many_keeps_the_order_over_many_chunks(client: Client, redis: Redis) -> None:
    # given more requests than fit in two chunks, as they come
    requests = (
        ScoreRequest(image_url="https://host/a.png", prompt="", request_id=f"r{number}")
        if number % 2
        else {"image_url": "https://host/a.png", "prompt": "", "request_id": f"r{number}"}
        for number in range(1100)
    )
    # when they are submitted
    ids = client.submit_many(requests)
    # then all are there, the first to be taken first
    assert ids == [f"r{number}" for number in range(1100)]
    raw = redis.lrange("score:3", 0, -1)
    assert [message.parse(one, keys.SCORE_QUEUE).task_id for one in reversed(raw)] == ids


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


def test_a_redis_that_refuses(client: Client, redis: Redis) -> None:
    redis.set("score:3", "something else has this name")
    with pytest.raises(QueueUnavailable, match="refused a command: WRONGTYPE"):
        client.submit(image_url="https://host/a.png", prompt="")


def test_a_url_that_is_none() -> None:
    with pytest.raises(ConfigError, match="redis://"):
        Client("localhost:6379")


def test_results_are_all_that_are_kept(client: Client, redis: Redis) -> None:
    for number in range(1200):
        redis.set(keys.result(f"r{number}"), verdict(f"r{number}").model_dump_json())
    assert sorted(one.request_id for one in client.results()) == sorted(f"r{number}" for number in range(1200))
