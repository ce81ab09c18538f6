from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from m3agiqa.contract import Asked, Decision, Failure, ImageInfo, ScoreRequest
from m3agiqa.cutting import SlicedImage
from m3agiqa.errors import (
    Busy,
    DeviceLost,
    FetchRefused,
    FetchUnavailable,
    ImageTooCostly,
    NotOwed,
    QueueUnavailable,
)
from m3agiqa.jobs import Job, Scores
from m3agiqa.policy import Policies, Policy
from m3agiqa.queue import keys
from m3agiqa.queue.ledger import Ledger
from m3agiqa.scorer import FakeScorer
from producers import Client, State
from tests.m3agiqa.queue.support import traces
from tests.support import PATIENCE_S
from tests.worker.conftest import come_due, owed
from worker.score.batcher import Batcher
from worker.score.cache import ScoreCache
from worker.score.decoding.budget import Budget, Hold
from worker.score.handler import ScoreHandler

REQUEST = ScoreRequest(image_url="https://images.example/1.png", prompt="a wall", request_id="r")
INFO = ImageInfo(sha256="0" * 64, width=10, height=10, format="PNG")
SCORES = keys.scores("image and prompt")
IMAGE = SlicedImage(INFO, {}, bytes(300), (10, 10))


class Outside:
    """Stands for a cache, a fetcher, decoders and a batcher; its images take 5 bytes fetched, 300 cut."""

    def __init__(self, batcher: Batcher) -> None:
        self.scoring = batcher.scoring
        self.budget = Budget(1000)
        self.takes_long = False
        self.failure: Exception | None = None
        self.outcome: Scores | Failure | None = None
        self.remembered: Scores | None = None
        self.asked: list[str] = []
        self.held: list[int] = []
        self._batcher = batcher

    def get(self, job: object) -> Scores | None:
        self.held.append(self.budget.taken_bytes)
        return self.remembered

    def put(self, job: object, scores: Scores) -> None:
        self.remembered = scores

    def key(self, job: object) -> str:
        return SCORES

    def forget(self, keys: list[str]) -> None:
        if SCORES in keys:
            self.remembered = None

    def fetch(self, url: object, hold: Hold, request_id: str) -> bytes:
        hold.resize(5)
        return b"bytes"

    def quick(self, data: bytes) -> SlicedImage | None:
        self.asked.append("quick")
        if self.failure is not None:
            raise self.failure
        return None if self.takes_long else IMAGE

    def patient(self, data: bytes, hold: Hold) -> SlicedImage:
        self.asked.append("patient")
        hold.resize(900)
        return IMAGE

    def score(self, job: Job, timeout_s: float, priority: Any, tenant: str | None) -> Scores | Failure:
        self.asked.append("model")
        return self.outcome or self._batcher.score(job, timeout_s, priority, tenant)

    def handler(self, ledger: Ledger, *retry_delays_s: float) -> ScoreHandler:
        outside: Any = self
        return ScoreHandler(
            ledger=ledger,
            fetcher=outside,
            decoders=outside,
            budget=self.budget,
            batcher=outside,
            cache=outside,
            policies=Policies("default"),
            retry_delays_s=retry_delays_s,
            timeout_s=PATIENCE_S,
        )


@pytest.fixture
def outside() -> Iterator[Outside]:
    batcher = Batcher(FakeScorer(), max_batch=1, max_wait_s=0)
    yield Outside(batcher)
    batcher.stop(PATIENCE_S)


def test_a_image_is_fetched_opened_scored_and_answered(
    outside: Outside, ledger: Ledger, redis: Redis, client: Client
) -> None:
    request = REQUEST.model_copy(update={"callback_url": "https://receiver.example/hook", "metadata": {"k": 1}})
    said = outside.handler(ledger).run(owed(ledger, redis, request))
    assert re.fullmatch(r"(accept|review|reject) \(fetch [0-9.]+, open [0-9.]+, score [0-9.]+ s\)", said)
    verdict = client.result("r", timeout=0)
    assert (verdict.status, verdict.attempt, verdict.image, verdict.metadata) == ("scored", 1, INFO, {"k": 1})
    assert set(verdict.timings_ms) >= {"queue", "fetch", "open", "score"}
    assert client.state("r") == State.SCORED
    assert redis.lrange("deliver", 0, -1) == ["r:callback"]


def test_a_submitter_whose_clock_is_ahead_waited_no_time(
    outside: Outside, ledger: Ledger, redis: Redis, client: Client
) -> None:
    ahead = REQUEST.model_copy(update={"submitted_at": datetime.now(UTC) + timedelta(hours=1)})
    outside.handler(ledger).run(owed(ledger, redis, ahead))
    assert client.result("r", timeout=0).timings_ms["queue"] == 0.0


def test_a_image_that_takes_long_goes_to_the_patient_decoders(outside: Outside, ledger: Ledger, redis: Redis) -> None:
    outside.takes_long = True
    assert outside.handler(ledger).run(owed(ledger, redis, REQUEST)).startswith(tuple(Decision))
    assert outside.asked == ["quick", "patient", "model"]


@pytest.mark.parametrize("takes_long", [False, True])
def test_while_it_is_scored_a_image_takes_its_slices_room_and_then_none(
    outside: Outside, ledger: Ledger, redis: Redis, takes_long: bool
) -> None:
    outside.takes_long = takes_long
    outside.handler(ledger).run(owed(ledger, redis, REQUEST))
    assert outside.held == [300]
    assert outside.budget.taken_bytes == 0


def test_what_was_scored_before_costs_no_model(outside: Outside, ledger: Ledger, redis: Redis, client: Client) -> None:
    for name in ("one", "two"):
        outside.handler(ledger).run(owed(ledger, redis, REQUEST.model_copy(update={"request_id": name})))
    assert outside.asked.count("model") == 1
    one, two = (client.result(name, timeout=0) for name in ("one", "two"))
    assert one.aspects == two.aspects


@pytest.mark.parametrize("partly", [False, True])
def test_what_the_model_failed_on_is_not_remembered(
    outside: Outside, ledger: Ledger, redis: Redis, client: Client, partly: bool
) -> None:
    failure = Failure.from_error(DeviceLost("the GPU fell off"))
    outside.outcome = Scores({}, failures={"quality": failure}) if partly else failure  # type: ignore[dict-item]
    outside.handler(ledger).run(owed(ledger, redis, REQUEST))
    assert client.result("r", timeout=0).status == "failed"
    assert outside.remembered is None


def test_a_busy_neighbour_puts_a_request_off_at_any_attempt_and_costs_none(
    outside: Outside, ledger: Ledger, redis: Redis, client: Client
) -> None:
    # given an image server that is busy more often than a request has attempts
    outside.failure = Busy("its server has all threads that one may have", 2.5)
    handler = outside.handler(ledger)
    task = owed(ledger, redis, REQUEST)
    for _ in range(4):
        with pytest.raises(Busy):
            handler.run(task)
        assert outside.budget.taken_bytes == 0
        assert client.history("r")[-1].endswith("score again in 2.5 s: its server has all threads that one may have")
        # when its time has come, and not before
        assert come_due(ledger, redis, 2) == 0
        assert come_due(ledger, redis, 0.6) == 1
    # then it is tried as if nothing had been
    outside.failure = None
    handler.run(task)
    assert client.result("r", timeout=0).attempt == 1


def test_a_image_that_is_too_costly_is_answered_at_once(
    outside: Outside, ledger: Ledger, redis: Redis, client: Client
) -> None:
    outside.failure = ImageTooCostly("12,001 scans")
    said = outside.handler(ledger, 5, 30).run(owed(ledger, redis, REQUEST))
    assert said.startswith("review, image_too_costly (fetch ")
    assert "score " not in said
    error = client.result("r", timeout=0).error
    assert error is not None
    assert (error.code, error.retryable) == ("image_too_costly", False)


def test_want_of_memory_is_named_and_tried_again(
    outside: Outside, ledger: Ledger, redis: Redis, client: Client
) -> None:
    outside.failure = MemoryError()
    assert outside.handler(ledger, 5).run(owed(ledger, redis, REQUEST)) == "out_of_memory, again in 5 s"
    assert client.history("r")[-1].endswith("again in 5.0 s: out_of_memory")


def test_what_nobody_foresaw_is_tried_again_and_then_answered_without_its_words(
    outside: Outside, ledger: Ledger, redis: Redis, client: Client
) -> None:
    outside.failure = RuntimeError("SECRET")
    handler, task = outside.handler(ledger, 5), owed(ledger, redis, REQUEST)
    assert handler.run(task) == "internal_error, again in 5 s"
    come_due(ledger, redis, 6)
    assert handler.run(task).startswith("review, internal_error (")
    verdict = client.result("r", timeout=0)
    assert verdict.attempt == 2
    assert "SECRET" not in verdict.model_dump_json()


def test_each_attempt_waits_for_its_own_delay_and_the_last_one_is_answered(
    outside: Outside, ledger: Ledger, redis: Redis, client: Client
) -> None:
    outside.failure = FetchUnavailable("images.example answered 503")
    handler, task = outside.handler(ledger, 5, 30), owed(ledger, redis, REQUEST)
    said = []
    for _ in range(3):
        said.append(handler.run(task).partition(" (")[0])
        come_due(ledger, redis, 31)
    assert said == [
        "fetch_unavailable, again in 5 s",
        "fetch_unavailable, again in 30 s",
        "review, fetch_unavailable",
    ]
    assert client.result("r", timeout=0).attempt == 3
    with pytest.raises(NotOwed):
        handler.run(task)


def test_a_failure_of_one_aspect_that_may_pass_is_tried_again(outside: Outside, ledger: Ledger, redis: Redis) -> None:
    outside.outcome = Scores({}, failures={"quality": Failure.from_error(DeviceLost("gone"))})  # type: ignore[dict-item]
    assert outside.handler(ledger, 0.5).run(owed(ledger, redis, REQUEST)) == "device_lost, again in 0.5 s"


@pytest.mark.parametrize(("asked_for_s", "delay_s"), [(None, 5), (0.0, 5), (3.0, 5), (60.0, 60)])
def test_a_image_server_that_asks_for_more_time_gets_it(
    outside: Outside, ledger: Ledger, redis: Redis, asked_for_s: float | None, delay_s: float
) -> None:
    outside.failure = FetchUnavailable("images.example answered 429", retry_after_s=asked_for_s)
    said = outside.handler(ledger, 5).run(owed(ledger, redis, REQUEST))
    assert said == f"fetch_unavailable, again in {delay_s:g} s"
    assert come_due(ledger, redis, delay_s - 1) == 0
    assert come_due(ledger, redis, 1.1) == 1


def test_a_request_that_is_put_off_expires_all_the_same(
    outside: Outside, ledger: Ledger, redis: Redis, client: Client
) -> None:
    outside.failure = Busy("its server has all threads that one may have", 2.5)
    expired = REQUEST.model_copy(update={"expires_at": datetime.now(UTC) - timedelta(seconds=1)})
    assert outside.handler(ledger).run(owed(ledger, redis, expired)) == "review, expired"
    assert outside.asked == []
    assert client.state("r") == State.SETTLED


def test_a_policy_that_is_not_there_is_answered(outside: Outside, ledger: Ledger, redis: Redis, client: Client) -> None:
    request = REQUEST.model_copy(update={"policy": "none-such"})
    assert outside.handler(ledger).run(owed(ledger, redis, request)) == "review, config_error"
    assert outside.asked == []


def test_a_request_that_takes_its_workers_along_is_answered_and_kept(
    outside: Outside, ledger: Ledger, redis: Redis, client: Client
) -> None:
    # given two workers that died with it
    task = owed(ledger, redis, REQUEST)
    for _ in range(2):
        ledger._take(task)
        for _ in range(2):  # its lease, and being kept apart from others
            come_due(ledger, redis, 2000)
    # when a third has it
    said = outside.handler(ledger, 5).run(task)
    # then nothing of it is touched
    assert said == "review, poison"
    assert outside.asked == []
    # and it is answered, and a dead letter
    assert client.result("r", timeout=0).status == "failed"
    [letter] = client.dead_letters()
    assert (letter.code, letter.kind, letter.task, letter.attempts) == ("poison", "score", "r", 3)
    assert ScoreRequest.model_validate_json(letter.message) == REQUEST
    assert client.state("r") == State.DEAD


def test_an_outcome_that_cannot_be_kept_gives_the_request_back(
    outside: Outside, ledger: Ledger, redis: Redis, client: Client
) -> None:
    outside.failure = QueueUnavailable("Redis is away")
    handler, task = outside.handler(ledger), owed(ledger, redis, REQUEST)
    with pytest.raises(QueueUnavailable):
        handler.run(task)
    assert client.history("r")[-1].endswith("again in 0.0 s: its outcome could not be kept")
    # then another worker has it, with the same attempt
    outside.failure = None
    assert come_due(ledger, redis, 0.1) == 1
    handler.run(task)
    assert client.result("r", timeout=0).attempt == 1


def test_the_first_verdict_stays(outside: Outside, ledger: Ledger, redis: Redis, client: Client) -> None:
    # given a worker that takes longer than its lease, so that another answers before it
    slow, quick = outside.handler(ledger), outside.handler(ledger)
    task = owed(ledger, redis, REQUEST)

    def meanwhile(data: bytes) -> SlicedImage:
        outside.quick = lambda data: IMAGE  # type: ignore[method-assign]
        come_due(ledger, redis, 2000)
        assert quick.run(task).startswith(tuple(Decision))
        raise FetchRefused("gone since")

    outside.quick = meanwhile  # type: ignore[method-assign]
    assert slow.run(task).startswith("another worker published first")
    assert client.result("r", timeout=0).status == "scored"
    assert client.state("r") == State.SETTLED


def test_scores_of_a_request_are_erased_with_it_whenever_that_is(
    outside: Outside, ledger: Ledger, redis: Redis, client: Client
) -> None:
    # given a request that was scored, then its scores are found by it
    redis.set(SCORES, "{}")
    outside.handler(ledger).run(owed(ledger, redis, REQUEST))
    assert client.erase("r").scores
    assert redis.exists(SCORES) == 0
    # and given one that is erased while its image is opened, then what was found out is kept nowhere
    task = owed(ledger, redis, REQUEST)

    def meanwhile(data: bytes) -> SlicedImage:
        assert client.erase("r").request
        return IMAGE

    outside.quick = meanwhile  # type: ignore[method-assign]
    outside.handler(ledger).run(task)
    assert outside.remembered is None
    assert traces(redis, "request:r", "result:r", "images.example") == []


def test_a_request_that_an_operator_took_back_is_answered_unseen(
    outside: Outside, ledger: Ledger, redis: Redis, client: Client
) -> None:
    outside.handler(ledger).revoke(owed(ledger, redis, REQUEST))
    error = client.result("r", timeout=0).error
    assert error is not None
    assert error.code == "revoked"
    assert outside.asked == []
    with pytest.raises(NotOwed):
        outside.handler(ledger).run("r")


def test_a_verdict_repeats_its_request_where_the_worker_is_set_to(
    outside: Outside, ledger: Ledger, redis: Redis, client: Client
) -> None:
    there = {"callback_url": "https://receiver.example/hook", "s3_uri": "s3://b/p"}
    outside.handler(ledger).run(owed(ledger, redis, REQUEST.model_copy(update={"request_id": "silent", **there})))
    echoing = replace(outside.handler(ledger), echo=True)
    echoing.run(owed(ledger, redis, REQUEST.model_copy(update={"request_id": "echoed", **there})))
    assert client.result("silent", timeout=0).request is None
    asked = Asked(image_url=REQUEST.image_url, prompt=REQUEST.prompt, **there)
    assert client.result("echoed", timeout=0).request == asked


def test_a_policy_in_shadow_decides_beside_the_other(
    outside: Outside, ledger: Ledger, redis: Redis, client: Client
) -> None:
    handler = replace(outside.handler(ledger), policies=Policies("observe", "default"))
    handler.run(owed(ledger, redis, REQUEST))
    verdict = client.result("r", timeout=0)
    assert verdict.policy == Policy.load("observe").ref
    assert verdict.shadow is not None
    assert verdict.shadow.policy == Policy.load("default").ref


def test_a_policy_in_shadow_that_breaks_harms_no_verdict(
    outside: Outside, ledger: Ledger, redis: Redis, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(self: object) -> Policy:
        raise ZeroDivisionError

    monkeypatch.setattr(Policies, "shadow", property(breaks))
    outside.handler(ledger).run(owed(ledger, redis, REQUEST))
    verdict = client.result("r", timeout=0)
    assert (verdict.status, verdict.shadow) == ("scored", None)


def test_a_guarded_image_is_scored_again_before_it_is_accepted(
    outside: Outside, ledger: Ledger, redis: Redis, client: Client, tmp_path: Path
) -> None:
    # given a policy that accepts every score that does not depend on the prompt
    path = tmp_path / "strict.yaml"
    path.write_text("{name: strict, version: 1, aspects: {quality: {}}, prompt_guard: 0.000001}")
    handler = replace(
        outside.handler(ledger), policies=Policies(str(path)), cache=ScoreCache(ledger.connection, "", ttl_s=0)
    )
    # when images are scored with prompts of all sorts
    verdicts = []
    for number in range(6):
        request = REQUEST.model_copy(update={"request_id": f"r-{number}", "prompt": f"number {number}"})
        handler.run(owed(ledger, redis, request))
        verdicts.append(client.result(request.request_id, timeout=0))
    # then each was scored twice, and those whose prompt raised a score are not accepted
    assert outside.asked.count("model") == 12
    for verdict in verdicts:
        rose = any(verdict.aspects[aspect].score > score for aspect, score in verdict.neutral.items())
        assert verdict.decision == (Decision.REVIEW if rose else Decision.ACCEPT), verdict.reasons


def test_a_tenants_policy_decides_where_the_request_names_none(
    outside: Outside, ledger: Ledger, redis: Redis, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a tenant whose policy is another than the worker's, one whose file is wrong, and one without a file
    monkeypatch.setenv("M3AGIQA_CONFIG_DIR", str(tmp_path))
    (tmp_path / "tenants").mkdir()
    (tmp_path / "tenants" / "acme.yaml").write_text("name: acme\npolicy: observe\n", encoding="utf-8")
    (tmp_path / "tenants" / "broken.yaml").write_text("name: broken\npolicy: [\n", encoding="utf-8")
    asked = [("acme", None, "a"), ("acme", "default", "b"), ("umbra", None, "c"), (None, None, "d")]
    # when their requests are scored
    for tenant, policy, name in asked:
        update = {"tenant": tenant, "policy": policy, "request_id": name}
        outside.handler(ledger).run(owed(ledger, redis, REQUEST.model_copy(update=update)))
    # then the request's own policy comes first, then its tenant's, then the worker's
    found = {told.name: told.policy.name for told in client.results() if told.policy}
    assert found == {"acme/a": "observe", "acme/b": "default", "umbra/c": "default", "d": "default"}


def test_a_tenant_whose_file_became_unreadable_is_decided_by_no_other_policy(
    outside: Outside, ledger: Ledger, redis: Redis, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a request that was admitted before a worker started that never could read the file
    monkeypatch.setenv("M3AGIQA_CONFIG_DIR", str(tmp_path))
    (tmp_path / "tenants").mkdir()
    task = owed(ledger, redis, REQUEST.model_copy(update={"tenant": "acme"}))
    (tmp_path / "tenants" / "acme.yaml").write_text("policy: [", encoding="utf-8")
    # then it is tried again, and in the end fails
    assert outside.handler(ledger, 0).run(task).startswith("tenant_misconfigured, again in")
    ledger.sweep()
    outside.handler(ledger, 0).run(task)
    told = client.result(task, 0)
    assert told.error is not None
    assert (told.error.code, told.decision) == ("tenant_misconfigured", "review")
