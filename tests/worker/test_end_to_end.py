"""Real worker processes on a real Valkey."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from redis import Redis

from m3agiqa.contract import Asked, Verdict
from m3agiqa.queue import inbox, keys
from producers import Client
from tests.support import PATIENCE_S, Web, Worker, eventually

Start = Callable[..., Worker]


def test_a_image_comes_back_as_a_verdict(client: Client, web: Web, worker_process: Start) -> None:
    # given a worker
    worker_process("score")
    # when an image is submitted
    request_id = client.submit(image_url=web.url("cat.png"), prompt="a cat", metadata={"user": 7})
    # then its verdict comes
    verdict = client.result(request_id, timeout=60)
    assert verdict.status == "scored"
    assert set(verdict.aspects) == {"quality", "correspondence", "authenticity"}
    assert verdict.image is not None
    assert verdict.image.width == 16
    assert verdict.metadata == {"user": 7}
    assert verdict.attempt == 1
    assert {"queue", "fetch", "open", "score"} <= set(verdict.timings_ms)


def test_a_verdict_tells_what_was_asked_and_what_a_policy_in_shadow_says_if_settings_want_it(
    client: Client, web: Web, worker_process: Start, tmp_path: Path
) -> None:
    # given a worker that accepts everything, beside an operator's policy that rejects all but the best
    folder = tmp_path / "own" / "policies"
    folder.mkdir(parents=True)
    (folder / "harsh.yaml").write_text(
        "name: harsh\nversion: 1\naspects: {quality: {reject_below: 5, review_below: 5}}\n"
    )
    own = {"config_dir": folder.parent, "policy": "observe", "shadow_policy": "harsh", "echo_request": True}
    worker_process("score", **own)
    # when an image is submitted
    image_url = web.url("cat.png")
    verdict = client.result(client.submit(image_url=image_url, prompt="a cat"), timeout=60)
    # then its verdict tells
    assert verdict.request == Asked(image_url=image_url, prompt="a cat")
    assert verdict.decision == "accept"
    assert verdict.shadow is not None
    assert (verdict.shadow.policy.name, verdict.shadow.decision) == ("harsh", "reject")


def test_a_request_is_any_json_object_on_an_inbox(
    client: Client, redis: Redis, web: Web, worker_process: Start
) -> None:
    # given both workers
    worker_process("score")
    worker_process("deliver")
    # when somebody without our package pushes what to score, and names no id
    request = {"image_url": web.url("a.png"), "prompt": "a cat", "callback_url": web.url("hook"), "aspects": None}
    redis.lpush("m3agiqa:inbox:3", json.dumps(request))
    # then it is scored and called back, under the id that its verdict names
    eventually(lambda: web.count("hook"), "a callback")
    [body] = [body for method, _, body in web.requests if method == "POST"]
    verdict = Verdict.model_validate_json(body)
    assert (verdict.status, set(verdict.aspects)) == ("scored", {"quality", "correspondence", "authenticity"})
    assert client.result(verdict.request_id, timeout=0) == verdict


def test_a_worker_that_only_delivers_takes_requests_in_as_well(
    client: Client, redis: Redis, web: Web, worker_process: Start
) -> None:
    # given a worker that does not score, and none that does
    worker_process("deliver")
    # when requests come, one of them wrong
    ids = [client.submit(image_url=web.url("a.png"), prompt="", priority=priority) for priority in (0, 3, 6, 9)]
    wrong = {"image_url": "ftp://host/a.png", "prompt": "", "request_id": "wrong", "callback_url": web.url("hook")}
    redis.lpush(keys.inbox(9), json.dumps(wrong))
    # then the wrong one is answered, and the others wait for a worker that scores, each on its list
    eventually(lambda: web.count("hook"), "the callback of the wrong one")
    eventually(lambda: [client.state(one) for one in ids] == ["submitted"] * 4, "every request is taken in")
    assert inbox.waiting(redis) == 4
    assert [redis.lrange(keys.wakeups("score", step), 0, -1) for step in keys.PRIORITIES] == [[one] for one in ids]
    worker_process("score")
    assert [client.result(one, timeout=60).status for one in ids] == ["scored"] * 4


def test_every_priority_arrives(client: Client, web: Web, worker_process: Start) -> None:
    worker_process("score")
    ids = [client.submit(image_url=web.url("a.png"), prompt="", priority=priority) for priority in (0, 3, 6, 9)]
    assert [client.result(request_id, timeout=60).status for request_id in ids] == ["scored"] * 4


def test_a_verdict_is_delivered(client: Client, web: Web, worker_process: Start) -> None:
    # given both workers
    worker_process("score")
    worker_process("deliver")
    # when a request names a callback
    request_id = client.submit(image_url=web.url("a.png"), prompt="", callback_url=web.url("hook"))
    # then exactly the verdict in Redis is posted there
    eventually(lambda: web.count("hook"), "a callback")
    [body] = [body for method, _, body in web.requests if method == "POST"]
    assert json.loads(body) == client.result(request_id, timeout=0).model_dump(mode="json")


def test_a_receiver_that_fails_gets_identical_bytes_again_and_at_last_a_dead_letter(
    client: Client, redis: Redis, web: Web, worker_process: Start
) -> None:
    # given a receiver that recovers, and one that does not
    web.answers |= {"recovers": [503, 500, 200], "broken": [503]}
    worker_process("score")
    worker_process("deliver", deliver_retry_delays_s="0.1,0.1,0.1")
    # when verdicts are to be delivered to them
    for path in ("recovers", "broken"):
        client.submit(image_url=web.url("a.png"), prompt="", callback_url=web.url(path), request_id=path)
    # then the first takes it at the third attempt, the second is given up after the fourth
    eventually(lambda: redis.hlen(keys.DEAD), "a dead letter")
    eventually(lambda: web.count("recovers") == 3, "the third attempt")
    assert len({body for _, path, body in web.requests if path == "/recovers"}) == 1
    assert web.count("broken") == 4
    [letter] = client.dead_letters()
    assert (letter.request_id, letter.kind, letter.code, letter.attempts) == (
        "broken",
        "callback",
        "delivery_unavailable",
        4,
    )
    assert "503" in letter.reason
    assert json.loads(letter.message)["callback_url"] == web.url("broken")


def test_a_receiver_that_is_gone_is_not_asked_twice(client: Client, web: Web, worker_process: Start) -> None:
    web.answers["gone"] = [410]
    worker_process("score")
    worker_process("deliver", deliver_retry_delays_s="0.1")
    client.submit(image_url=web.url("a.png"), prompt="", callback_url=web.url("gone"))
    [letter] = eventually(lambda: list(client.dead_letters()), "a dead letter")
    assert (letter.code, letter.attempts) == ("delivery_gone", 1)


@pytest.mark.parametrize(
    ("statuses", "status", "attempt", "code"),
    [
        ([503, 503, 200], "scored", 3, None),
        ([503], "failed", 3, "fetch_unavailable"),
        ([404], "failed", 1, "fetch_refused"),
    ],
    ids=["recovers", "stays away", "is not there"],
)
def test_a_image_that_cannot_be_fetched(
    statuses: list[int],
    status: str,
    attempt: int,
    code: str | None,
    client: Client,
    web: Web,
    worker_process: Start,
) -> None:
    # given an image server with troubles
    web.answers["a.png"] = statuses
    worker_process("score", score_retry_delays_s="0.1,0.1")
    # when one of its images is submitted
    verdict = client.result(client.submit(image_url=web.url("a.png"), prompt=""), timeout=60)
    # then what may pass is tried again, and a failure is never a rejection
    assert (verdict.status, verdict.attempt) == (status, attempt)
    assert (verdict.error and verdict.error.code) == code
    assert web.count("a.png") == attempt
    assert verdict.decision == "review" or code is None


def test_a_policy_that_does_not_exist_fails_the_request(client: Client, web: Web, worker_process: Start) -> None:
    worker_process("score")
    verdict = client.result(client.submit(image_url=web.url("a.png"), prompt="", policy="none-such"), timeout=60)
    assert verdict.error is not None
    assert verdict.error.code == "config_error"
    assert verdict.decision == "review"


def test_a_request_nobody_waits_for_is_answered_unscored(client: Client, web: Web, worker_process: Start) -> None:
    # given a request whose time passes before a worker takes it
    then = datetime.now(UTC)
    request_id = client.submit(image_url=web.url("late.png"), prompt="", expires_at=then)
    in_time = client.submit(image_url=web.url("a.png"), prompt="", expires_at=then + timedelta(hours=1))
    worker_process("score")
    # then its image is not even fetched
    verdict = client.result(request_id, timeout=60)
    assert verdict.error is not None
    assert (verdict.error.code, verdict.decision) == ("expired", "review")
    assert client.state(request_id) == "settled"
    assert web.count("late.png") == 0
    assert client.result(in_time, timeout=60).status == "scored"


def test_the_same_image_and_prompt_are_scored_once(client: Client, web: Web, worker_process: Start) -> None:
    # given a worker that can score two batches
    prelude = (
        "from m3agiqa.scorer import FakeScorer\n"
        "score, batches = FakeScorer.score, []\n"
        "def twice(self, jobs):\n"
        "    batches.extend(job for job in jobs if job.image.info.width == 16)\n"
        "    return score(self, jobs) if len(batches) <= 1 else 1 / 0\n"
        "FakeScorer.score = twice\n"
    )
    worker_process("score", prelude=prelude, score_retry_delays_s=",")

    def scored(prompt: str, **fields: object) -> Verdict:
        return client.result(client.submit(image_url=web.url("a.png"), prompt=prompt, **fields), timeout=60)

    # when an image comes again
    first, again = scored("a cat"), scored("a cat")
    # then its scores are those of the first time; with other words or aspects they are not
    assert again.aspects == first.aspects
    assert again.status == "scored"
    assert scored("a dog").error is not None
    assert scored("a cat", aspects=["quality"]).error is not None


def test_a_slow_receiver_keeps_no_other_waiting(client: Client, web: Web, worker_process: Start) -> None:
    # given a worker with four threads, and many verdicts for a receiver that never answers
    with socket.create_server(("127.0.0.1", 0), backlog=64) as dead:
        endpoint = f"127.0.0.1:{dead.getsockname()[1]}"
        worker_process("score")
        worker_process(
            "deliver",
            concurrency=4,
            deliver_max_per_host=2,
            deliver_timeout_s=PATIENCE_S,
            deliver_allow_hosts=f"{endpoint},{web.endpoint}",
        )
        stuck = [
            client.submit(image_url=web.url("a.png"), prompt="", callback_url=f"http://{endpoint}/") for _ in range(20)
        ]
        eventually(lambda: [client.state(one) for one in stuck].count("delivering") >= 2, "the slow receiver is busy")
        # when others want theirs
        others = {client.submit(image_url=web.url("a.png"), prompt="", callback_url=web.url("hook")) for _ in range(5)}
        # then they get them, long before the first delivery is given up
        eventually(lambda: web.count("hook") == 5, "the others' callbacks")
        bodies = [body for method, _, body in web.requests if method == "POST"]
        assert {Verdict.model_validate_json(body).request_id for body in bodies} == others
        assert not {client.state(one) for one in stuck} & {"settled", "dead"}
