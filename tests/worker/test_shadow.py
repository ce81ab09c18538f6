from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from prometheus_client import generate_latest
from redis import Redis

from m3agiqa.contract import Aspect, AspectScore, Rating
from m3agiqa.queue import keys
from m3agiqa.queue.ledger import Ledger
from producers import Client
from tests import pages
from tests.m3agiqa.queue.support import request
from tests.support import ROOT, Web, Worker, eventually, free_port, labels
from tests.support_verdicts import verdict
from tests.worker.conftest import owed
from worker.shadow import Report, main

#: A candidate that gives every aspect a point more than the fake model of production.
CANDIDATE = """
from dataclasses import replace
from m3agiqa.scorer import FakeScorer
score = FakeScorer.score
def better(self, jobs):
    raised = lambda one: one.model_copy(update={"score": min(5.0, one.score + 1)})
    return [replace(found, aspects={a: raised(s) for a, s in found.aspects.items()}) for found in score(self, jobs)]
FakeScorer.score = better
from worker.shadow import main
raise SystemExit(main())
"""


@pytest.fixture
def shadow(redis_url: str, redis: Redis, web: Web, tmp_path: Path) -> Iterator[int]:
    """A shadow worker that asks for every request; the port of its metrics."""
    port = free_port()
    settings = {
        "redis_url": redis_url,
        "model": "fake",
        "fetch_allow_hosts": web.endpoint,
        "shadow_of": "fake",
        "shadow_share": 1,
        "shadow_file": tmp_path / "shadow.jsonl",
        "metrics_port": port,
        "log_format": "json",
    }
    environment = {name: value for name, value in os.environ.items() if not name.startswith("M3AGIQA_")}
    environment |= {f"M3AGIQA_{name.upper()}": str(value) for name, value in settings.items()}
    with (tmp_path / "shadow.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-c", CANDIDATE], cwd=ROOT, env=environment, stdout=log, stderr=log)
    try:
        eventually(lambda: redis.exists(keys.SHADOW_SHARE), "the shadow worker asks")
        yield port
        process.terminate()
        assert process.wait(60) == 0
        for line in (tmp_path / "shadow.log").read_text().splitlines():
            json.loads(line)
    finally:
        process.kill()
        process.wait()


def test_a_candidate_is_compared_and_publishes_nothing(
    shadow: int, client: Client, redis: Redis, web: Web, worker_process: Callable[..., Worker], tmp_path: Path
) -> None:
    # given production, with a receiver, and images of which one is gone when the shadow worker fetches it
    worker_process("score")
    worker_process("deliver")
    web.answers["gone.png"] = [200, 404]
    names = [f"{number}.png" for number in range(8)] + ["gone.png"]
    ids = [
        client.submit(image_url=web.url(name), prompt=f"secret {name}", callback_url=web.url("hook")) for name in names
    ]
    verdicts = {request_id: client.result(request_id, timeout=60) for request_id in ids}
    eventually(lambda: {client.state(request_id) for request_id in ids} == {"settled"}, "all delivered")

    # when the shadow worker has had its share
    def counted() -> bool:
        return 'm3agiqa_shadow_images_total{code="",outcome="compared"} 8.0' in metrics(shadow)

    eventually(counted, "eight comparisons")
    gone = 'm3agiqa_shadow_images_total{code="fetch_refused",outcome="failed"} 1.0'
    eventually(lambda: gone in metrics(shadow), "the image that is gone")
    # then the file has both sides of each, and nothing private
    text = (tmp_path / "shadow.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert {line["request_id"] for line in lines} == set(ids[:-1])
    assert "secret" not in text
    assert web.endpoint not in text
    for line in lines:
        production = verdicts[line["request_id"]]
        assert line["production"]["decision"] == production.decision
        for aspect, scored in production.aspects.items():
            expected = min(5.0, scored.score + 1) - scored.score
            assert line["differences"][aspect] == pytest.approx(expected, abs=1e-6)
    # and of production nothing changed: one verdict and one callback each, and the first stands
    assert {request_id: client.result(request_id, timeout=0) for request_id in ids} == verdicts
    assert web.count("hook") == len(ids)
    assert redis.llen(keys.SHADOW) == 0
    assert redis.zcard(keys.OWED) == 0


def metrics(port: int) -> str:
    return requests.get(f"http://127.0.0.1:{port}/metrics", timeout=10).text


def publish(ledger: Ledger, redis: Redis, name: str) -> None:
    with ledger.claim(owed(ledger, redis, request(name))) as claim:
        assert claim.publish(verdict(name))


def test_nothing_is_laid_aside_unless_somebody_asks(ledger: Ledger, redis: Redis) -> None:
    publish(ledger, redis, "a")
    assert redis.llen(keys.SHADOW) == 0
    # when a shadow worker asks for a half
    redis.set(keys.SHADOW_SHARE, "0.5")
    names = [f"r{number}" for number in range(40)]
    for name in names:
        publish(ledger, redis, name)
    # then it gets those whose fingerprint is in the first half
    wanted = {name for name in names if int(request(name).fingerprint[:8], 16) < 2**31}
    assert {json.loads(text)["request"]["request_id"] for text in redis.lrange(keys.SHADOW, 0, -1)} == wanted
    assert 0 < len(wanted) < len(names)
    assert redis.ttl(keys.SHADOW) > 0


@pytest.mark.parametrize("share", ["", "much", "nan", "-1"])
def test_a_verdict_is_published_whatever_stands_where_a_shadow_worker_asks(
    ledger: Ledger, redis: Redis, client: Client, share: str
) -> None:
    # given nonsense in place of a share, and no list where samples go
    redis.set(keys.SHADOW_SHARE, share)
    redis.set(keys.SHADOW, "x")
    publish(ledger, redis, "a")
    # and a share that is of another type
    redis.delete(keys.SHADOW_SHARE)
    redis.rpush(keys.SHADOW_SHARE, "1")
    publish(ledger, redis, "b")
    # and a list that is full
    redis.delete(keys.SHADOW_SHARE, keys.SHADOW)
    redis.set(keys.SHADOW_SHARE, "1")
    redis.rpush(keys.SHADOW, *["{}"] * 500)
    publish(ledger, redis, "c")
    # then verdicts are there
    assert [client.result(name, timeout=0).status for name in "abc"] == ["scored"] * 3
    assert redis.llen(keys.SHADOW) == 500


def test_every_metric_stands_in_the_documentation_with_its_labels() -> None:
    report = Report(None)
    scored = AspectScore(score=3.3, rating=Rating.GOOD, description="", slices=0, cut_tokens=0)
    told = verdict("a").model_copy(update={"aspects": {Aspect.QUALITY: scored}})
    report.compared(told, told)
    assert pages.metrics("| Metric of a shadow worker | Labels | Means |") == labels(report.registry.collect())


def test_a_file_that_cannot_be_written_ends_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    report = Report(tmp_path)
    for _ in range(2):
        report.compared(verdict("a"), verdict("a"))
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert b'outcome="compared"} 2.0' in generate_latest(report.registry)


@pytest.mark.parametrize(
    ("settings", "told"),
    [({}, "M3AGIQA_SHADOW_OF"), ({"SHADOW_OF": "on", "SHADOW_FILE": "/dev/null/x"}, "M3AGIQA_SHADOW_FILE")],
)
def test_wrong_settings_are_told(
    settings: dict[str, str], told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("worker.ops.logs.start", lambda _: None)
    for name, value in settings.items():
        monkeypatch.setenv(f"M3AGIQA_{name}", value)
    assert main([]) == 1
    assert told in capsys.readouterr().err
