from __future__ import annotations

import socket
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from prometheus_client import generate_latest

from m3agiqa.contract import Aspect, AspectScore, Decision, Failure, PolicyRef, Rating, ShadowDecision, Verdict
from m3agiqa.errors import ConfigError, FetchRefused
from m3agiqa.scorer import FakeScorer
from tests import pages
from tests.support import PATIENCE_S, free_port, labels, samples
from tests.support_verdicts import verdict
from worker.ops.metrics import MOST_HOSTS, Metrics, serving

BOTH = ("score", "deliver")
SCORED = AspectScore(score=3.3, rating=Rating.GOOD, description="", slices=0, cut_tokens=0)


def metrics(*queues: str) -> Metrics:
    return Metrics(queues or BOTH, 8, lambda: 3)


def told_by(found: Metrics) -> dict[str, float]:
    return samples(generate_latest(found.registry).decode())


def shown(found: Metrics, *names: str) -> dict[str, float]:
    """The samples of some metrics that are not 0."""
    return {name: value for name, value in told_by(found).items() if name.startswith(names) and value}


def claim(verdict: str = "", kind: str = "callback", since: float = 0.0) -> Any:
    return SimpleNamespace(kind=kind, verdict=verdict, since=since)


def published(**changes: object) -> Verdict:
    made = verdict("r").model_copy(update={"timings_ms": {}, "policy": PolicyRef(name="strict", version=1)})
    return made.model_copy(update={"model": FakeScorer().info, **changes})


def test_a_verdict_is_counted_with_its_scores_and_stages() -> None:
    # given a verdict of one score that was fetched in 0.2 s
    given = published(aspects={Aspect.QUALITY: SCORED}, timings_ms={"fetch": 200.0})
    # when it is published twice, once within 4 ms
    found = metrics()
    found.published(given.model_copy(update={"decision": Decision.REJECT}), 4.0)
    found.published(given.model_copy(update={"decision": Decision.ACCEPT}), 6.0)
    # then each is counted by its decision
    told = told_by(found)
    assert told["m3agiqa_worker_images_total|reject|strict|scored"] == 1
    assert told["m3agiqa_worker_images_total|accept|strict|scored"] == 1
    assert not shown(found, "m3agiqa_worker_failures_total")
    # and a score lies between two steps
    assert told["m3agiqa_score_bucket|quality|3.25|fake"] == 0
    assert told["m3agiqa_score_bucket|quality|3.5|fake"] == 2
    assert told["m3agiqa_score_sum|quality|fake"] == pytest.approx(6.6)
    # and stages are seconds
    assert told["m3agiqa_stage_seconds_sum|fetch"] == pytest.approx(0.4)
    assert told["m3agiqa_stage_seconds_bucket|0.005|publish"] == 1
    assert told["m3agiqa_stage_seconds_count|publish"] == 2


def test_a_failed_verdict_has_a_code_and_no_decision() -> None:
    found = metrics()
    failure = Failure.from_error(FetchRefused("404"))
    found.published(published(status="failed", error=failure, aspects={}, policy=None, model=None), 1.0)
    assert shown(found, "m3agiqa_worker_", "m3agiqa_score_bucket") == {
        "m3agiqa_worker_images_total|||failed": 1,
        "m3agiqa_worker_failures_total|fetch_refused": 1,
    }


def test_what_a_policy_in_shadow_would_have_decided_is_counted_beside_what_was() -> None:
    found = metrics()
    ref = PolicyRef(name="next", version=1)
    for decision in (Decision.REJECT, Decision.REJECT, Decision.ACCEPT):
        found.published(published(shadow=ShadowDecision(policy=ref, decision=decision, reasons=())), 1.0)
    found.published(published(), 1.0)
    assert shown(found, "m3agiqa_worker_shadow_decisions_total") == {
        "m3agiqa_worker_shadow_decisions_total|accept|reject": 2,
        "m3agiqa_worker_shadow_decisions_total|accept|accept": 1,
    }


def test_attempts_are_counted_by_their_end_and_failures_by_receiver() -> None:
    # given a verdict of an hour ago by another's clock
    found = metrics()
    body = '{"scored_at": "2020-01-01T00:00:00Z"}'
    # when it is delivered at the third attempt, and others never
    found.attempted(claim(body), "a.example", "retried")
    found.attempted(claim(body), "a.example", "retried")
    found.attempted(claim(body), "a.example", "delivered")
    found.attempted(claim(body, kind="s3"), "s3://bucket", "dead")
    found.attempted(claim(body), "", "dead")
    # then
    assert shown(found, "m3agiqa_delivery_attempts_total", "m3agiqa_receiver_failures_total") == {
        "m3agiqa_delivery_attempts_total|callback|retried": 2,
        "m3agiqa_delivery_attempts_total|callback|delivered": 1,
        "m3agiqa_delivery_attempts_total|callback|dead": 1,
        "m3agiqa_delivery_attempts_total|s3|dead": 1,
        "m3agiqa_receiver_failures_total|a.example": 2,
        "m3agiqa_receiver_failures_total|s3://bucket": 1,
        "m3agiqa_receiver_failures_total|other": 1,
    }
    told = told_by(found)
    assert told["m3agiqa_stage_seconds_count|deliver"] == 5
    assert told["m3agiqa_delivery_delay_seconds_count"] == 1
    assert told["m3agiqa_delivery_delay_seconds_bucket|86400.0"] == 0


def test_each_end_of_an_attempt_is_there_from_the_beginning() -> None:
    # Prometheus sees an increase only from one number to another.
    told = told_by(metrics())
    kinds, outcomes = ("callback", "s3"), ("delivered", "retried", "dead")
    assert all(told[f"m3agiqa_delivery_attempts_total|{kind}|{end}"] == 0 for kind in kinds for end in outcomes)


def test_a_clock_that_is_ahead_makes_no_delay() -> None:
    found = metrics()
    found.attempted(claim('{"scored_at": "2999-01-01T00:00:00Z"}'), "a.example", "delivered")
    assert told_by(found)["m3agiqa_delivery_delay_seconds_sum"] == 0
    assert told_by(found)["m3agiqa_delivery_delay_seconds_count"] == 1


@pytest.mark.parametrize("body", ["", "[]", "{}", '{"scored_at": 7}', '{"scored_at": "2020-01-01T00:00:00"}', "nul"])
def test_a_verdict_that_tells_no_time_has_no_delay(body: str) -> None:
    found = metrics()
    found.attempted(claim(body), "a.example", "delivered")
    assert told_by(found)["m3agiqa_delivery_delay_seconds_count"] == 0
    assert told_by(found)["m3agiqa_delivery_attempts_total|callback|delivered"] == 1


def test_strangers_who_name_many_receivers_make_few_labels() -> None:
    # given as many receivers that fail as have a label
    found = metrics()
    for number in range(MOST_HOSTS):
        found.attempted(claim(), f"{number}.example", "retried")
    # when others fail, and a known one again
    for name in ("new.example", "newer.example", "0.example"):
        found.attempted(claim(), name, "retried")
    # then those share one
    told = shown(found, "m3agiqa_receiver_failures_total")
    assert len(told) == MOST_HOSTS + 1
    assert told["m3agiqa_receiver_failures_total|other"] == 2
    assert told["m3agiqa_receiver_failures_total|0.example"] == 2


def test_batches_and_the_score_cache_are_counted() -> None:
    found = metrics()
    found.batch(3, 4)
    found.batch(1, 4)
    for remembered in (True, True, False):
        found.looked_up(remembered)
    told = told_by(found)
    assert (told["m3agiqa_batch_images_sum"], told["m3agiqa_batch_images_count"]) == (4, 2)
    assert told["m3agiqa_batch_fill_ratio"] == 0.25
    assert (told["m3agiqa_score_cache_hits_total"], told["m3agiqa_score_cache_misses_total"]) == (2, 1)


def test_a_model_is_shown_once_it_passed_its_test() -> None:
    found = metrics()
    assert told_by(found)["m3agiqa_startup_check"] == 0
    assert not shown(found, "m3agiqa_model_info")
    found.checked(FakeScorer().info)
    assert told_by(found)["m3agiqa_startup_check"] == 1
    # labels by their names: base, dtype, profile
    assert shown(found, "m3agiqa_model_info") == {"m3agiqa_model_info|none|none|fake": 1}


def test_threads_and_memory_are_looked_at_when_somebody_asks() -> None:
    busy = [1]
    found = Metrics(BOTH, 8, lambda: busy[0])
    assert told_by(found)["m3agiqa_threads_busy"] == 1
    busy[0] = 5
    told = told_by(found)
    assert (told["m3agiqa_threads_busy"], told["m3agiqa_threads"]) == (5, 8)
    assert told["m3agiqa_process_memory_bytes"] > 2**20


@pytest.mark.parametrize(("initialised", "expected"), [(False, {}), (True, {"allocated": 30, "reserved": 300})])
def test_memory_of_a_gpu_is_shown_where_torch_uses_one(
    initialised: bool, expected: Mapping[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a torch with two devices
    cuda = SimpleNamespace(
        is_initialized=lambda: initialised,
        device_count=lambda: 2,
        memory_allocated=lambda device: (10, 20)[device],
        memory_reserved=lambda device: (100, 200)[device],
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    # then
    name = "m3agiqa_gpu_memory_bytes"
    assert shown(metrics(), name) == {f"{name}|{kind}": value for kind, value in expected.items()}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_memory_of_this_gpu_is_counted() -> None:
    kept = torch.zeros(2**20, dtype=torch.uint8, device="cuda")
    told = told_by(metrics())
    assert told["m3agiqa_gpu_memory_bytes|reserved"] >= told["m3agiqa_gpu_memory_bytes|allocated"] >= kept.nbytes


def test_a_worker_shows_the_metrics_of_its_queues_alone() -> None:
    score, deliver = (told_by(metrics(queue)).keys() for queue in BOTH)
    assert "m3agiqa_startup_check" in score - deliver
    assert "m3agiqa_delivery_delay_seconds_count" in deliver - score
    assert "m3agiqa_threads" in score & deliver
    # and what it does not show may be counted all the same
    metrics("deliver").batch(1, 4)


def test_every_metric_stands_in_the_documentation_with_its_labels_and_a_help_text() -> None:
    # given metrics in which each has a sample
    found = metrics()
    failure = Failure.from_error(FetchRefused("404"))
    shadow = ShadowDecision(policy=PolicyRef(name="next", version=1), decision=Decision.ACCEPT, reasons=())
    found.published(published(error=failure, aspects={Aspect.QUALITY: SCORED}, shadow=shadow), 1.0)
    found.attempted(claim(), "a.example", "dead")
    found.checked(FakeScorer().info)
    families = list(found.registry.collect())
    assert all(family.documentation for family in families)
    # then the table has the same; memory of a GPU has samples where there is one
    expected = {**labels(families), "m3agiqa_gpu_memory_bytes": {"kind"}}
    assert pages.metrics("| Metric of a worker | Labels | Means |") == expected


@contextmanager
def served(found: Metrics) -> Iterator[int]:
    port = free_port()
    with serving(found.registry, "127.0.0.1", port):
        yield port


def test_prometheus_reads_them_while_the_worker_is_there() -> None:
    found = metrics()
    with served(found) as port:
        url = f"http://127.0.0.1:{port}/metrics"
        with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
            assert samples(answer.read().decode())["m3agiqa_threads"] == 8
    # and nobody listens there afterwards
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S):
        pass


def test_a_client_that_says_nothing_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.ops.metrics._SILENCE_S", 0.05)
    with served(metrics()) as port, socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as client:
        assert client.recv(1) == b""


def test_a_port_that_is_taken_is_named() -> None:
    with served(metrics()) as port, pytest.raises(ConfigError) as refused:
        serving(metrics().registry, "127.0.0.1", port).__enter__()
    assert str(refused.value) == (
        f"M3AGIQA_METRICS_PORT: cannot listen on 127.0.0.1, port {port}: Address already in use"
    )


def test_an_address_of_another_host_is_named() -> None:
    with pytest.raises(ConfigError, match=r"M3AGIQA_METRICS_PORT: cannot listen on 192\.0\.2\.1, port 9809"):
        serving(metrics().registry, "192.0.2.1", 9809).__enter__()
