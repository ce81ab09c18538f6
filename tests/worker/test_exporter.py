from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest
from redis import Redis

from m3agiqa.queue import keys, overview
from m3agiqa.queue.connection import Connection
from tests import pages
from tests.support import PATIENCE_S, labels, samples
from worker import exporter


@contextmanager
def exporting(redis_url: str) -> Iterator[str]:
    """An exporter on loopback; gives its URL."""
    connection = Connection(redis_url, patience_s=0)
    with closing(connection), exporter.make(connection, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def asked(url: str) -> dict[str, float]:
    status, text = get(f"{url}/metrics")
    assert status == 200
    return samples(text)


def test_prometheus_reads_what_waits_and_what_was_counted(redis_url: str, redis: Redis) -> None:
    # given a queue on which something happened
    redis.lpush(keys.inbox(3), "{}", "{}")
    counts = {"verdicts|scored|reject|default": 2, "requests_settled": 5, "failures|busy": 1}
    redis.hset(keys.COUNTS, mapping=counts)
    redis.hset(keys.DEAD_CODES, "delivery_gone", 4)
    redis.set(keys.DEAD_DROPPED, 6)
    # when Prometheus asks
    with exporting(redis_url) as url:
        found = asked(url)
    # then it is told
    expected = {
        "m3agiqa_redis_up": 1,
        "m3agiqa_queue_waiting|3": 2,
        "m3agiqa_verdicts_total|reject|default|scored": 2,
        "m3agiqa_requests_settled_total": 5,
        "m3agiqa_failures_total|busy": 1,
        "m3agiqa_dead_letters|delivery_gone": 4,
        "m3agiqa_dead_letters_dropped_total": 6,
        "m3agiqa_workers|score": 0,
        "m3agiqa_redis_noeviction": 1,
    }
    assert {name: found.get(name) for name in expected} == expected


def test_what_alerts_watch_counts_from_zero(redis_url: str) -> None:
    with exporting(redis_url) as url:
        found = asked(url)
    expected = ["failures_total|poison", "deliveries_total|callback|dead", "leases_lost_total|score"]
    expected += ["requests_refused_total|request_invalid"]
    assert {name: found.get(f"m3agiqa_{name}") for name in expected} == dict.fromkeys(expected, 0)


def test_every_count_has_a_help_text() -> None:
    assert exporter._COUNTERS.keys() == overview.COUNTED.keys()


def test_the_queue_is_json_too(redis_url: str, redis: Redis) -> None:
    redis.lpush(keys.inbox(3), "{}")
    redis.zadd(keys.FAILING, {"hooks.example": redis.time()[0]})
    with exporting(redis_url) as url:
        status, text = get(f"{url}/queue")
        assert asked(url)["m3agiqa_receivers_failing"] == 1
        # which names no receiver to whoever asks
        assert "hooks.example" not in text + get(f"{url}/metrics")[1]
    assert (status, json.loads(text)["waiting"]) == (200, {"0": 0, "3": 1, "6": 0, "9": 0})


def test_without_redis_the_exporter_lives_and_says_so(unused_port: int) -> None:
    with exporting(f"redis://127.0.0.1:{unused_port}") as url:
        assert asked(url) == {"m3agiqa_redis_up": 0}
        assert get(f"{url}/healthz") == (200, "ok\n")
        assert get(f"{url}/queue") == (503, "Redis does not answer\n")
        assert get(f"{url}/other")[0] == 404


def test_a_wrong_port_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("M3AGIQA_EXPORTER_PORT", "70000")
    assert exporter.main([]) == 1
    assert "M3AGIQA_EXPORTER_PORT" in capsys.readouterr().err


def test_every_metric_stands_in_the_documentation_with_its_labels(redis_url: str, redis: Redis) -> None:
    # given a queue on which everything that is counted happened
    counts = {"|".join([name, *labels]): 1 for name, labels in overview.COUNTED.items()}
    redis.hset(keys.COUNTS, mapping=counts)
    redis.hset(keys.DEAD_CODES, "busy", 1)
    # when Prometheus asks
    with closing(Connection(redis_url)) as connection:
        families = list(exporter.QueueCollector(connection).collect())
    # then it is told what the page says
    assert pages.metrics("| Metric | Labels | Means |") == labels(families)
