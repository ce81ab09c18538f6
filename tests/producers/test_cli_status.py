from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest
from redis import Redis

from m3agiqa.contract import ScoreRequest
from m3agiqa.queue import inbox, keys, overview
from m3agiqa.queue.connection import Connection
from m3agiqa.queue.overview import WorkerSeen
from producers.cli import main

Output = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _redis_of_the_test(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("M3AGIQA_REDIS_URL", redis_url)
    monkeypatch.setattr("producers.cli_status._RATE_S", 0.01)


@pytest.fixture
def connection(redis_url: str) -> Iterator[Connection]:
    with closing(Connection(redis_url)) as connection:
        yield connection


def wait_since(redis: Redis, seconds: float) -> None:
    """Have a request in an inbox for so long."""
    submitted_at = datetime.now(UTC) - timedelta(seconds=seconds)
    inbox.push(redis, [ScoreRequest(image_url="https://host/a.png", prompt="", submitted_at=submitted_at)])


def work(connection: Connection, *queues: str) -> None:
    worker = WorkerSeen(name="host:7", queues=queues, model="mini[red]", held=1, started_at=0, version="1.0")
    overview.register(connection, worker)


def test_nothing_to_do_is_fine(capsys: Output) -> None:
    assert main(["status"]) == 0
    assert "0 workers" in capsys.readouterr().out


def test_one_screen_shows_queue_workers_and_failures(redis: Redis, connection: Connection, capsys: Output) -> None:
    # given a request that waits, a worker, and what was counted
    wait_since(redis, 100)
    work(connection, "score")
    redis.hset(keys.COUNTS, mapping={"failures|fetch_refused": 12, "requests_settled": 4})
    redis.hset(keys.DEAD_CODES, "delivery_gone", 3)
    # when somebody looks, then all of it is there, and fine; brackets are no markup
    assert main(["status"]) == 0
    shown = capsys.readouterr().out
    for word in ("host:7", "mini[red]", "fetch_refused", "12", "delivery_gone", "1 workers"):
        assert word in shown


def test_receivers_that_fail_are_named_the_latest_first(redis: Redis, capsys: Output) -> None:
    # given a bucket and a host, whose name is longer than those of others
    now, host = redis.time()[0], f"{'a' * 60}.{'b' * 60}.example"
    redis.zadd(keys.FAILING, {host: now - 120, "s3://out": now - 60})
    # when somebody looks
    assert main(["status"]) == 0
    shown = capsys.readouterr().out
    assert "2 receivers fail" in shown
    assert shown.index("s3://out") < shown.index("a" * 60)
    assert shown.count(" s ago") == 2
    # then scripts are told the same
    assert main(["status", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["receivers_failing"]
    assert list(told) == ["s3://out", host]
    assert told[host] >= 120


def test_a_queue_without_a_worker_needs_attention(redis: Redis, connection: Connection, capsys: Output) -> None:
    wait_since(redis, 0)
    assert main(["status"]) == 3
    assert "no worker of `score`" in capsys.readouterr().out
    # and one that only delivers is of no use to it
    work(connection, "deliver")
    assert main(["status", "--json"]) == 3
    work(connection, "score")
    assert main(["status", "--json"]) == 0


def test_verdicts_without_a_worker_need_attention(redis: Redis, connection: Connection, capsys: Output) -> None:
    redis.lpush(keys.DELIVER_QUEUE, "r:callback")
    work(connection, "score")
    assert main(["status"]) == 3
    assert "no worker of `deliver`" in capsys.readouterr().out


def test_a_request_that_waits_too_long_needs_attention(redis: Redis, connection: Connection) -> None:
    wait_since(redis, 1000)
    work(connection, "score")
    assert main(["status", "--json"]) == 3
    assert main(["status", "--json", "--max-age", "5000"]) == 0


def test_json_is_the_overview(redis: Redis, capsys: Output) -> None:
    redis.hset(keys.COUNTS, "verdicts|scored|accept|default", 2)
    assert main(["status", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told.keys() == overview.Overview.model_fields.keys()
    assert told["counts"] == {"verdicts|scored|accept|default": 2}


@pytest.mark.parametrize("options", [["--json"], []])
def test_watching_looks_again_until_it_is_ended(
    options: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    # given somebody who presses Ctrl-C at the third pause
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("producers.cli_status.time.sleep", sleep)
    # when he watches, then it goes on until then
    assert main(["status", "--watch", "7", *options]) == 130
    assert pauses == [7, 7, 7]
    if options:
        assert len([json.loads(line) for line in capsys.readouterr().out.splitlines()]) == 3


def test_a_redis_that_is_away_is_a_failure(unused_port: int, capsys: Output) -> None:
    assert main(["--redis-url", f"redis://127.0.0.1:{unused_port}", "status"]) == 1
    assert "cannot be reached" in capsys.readouterr().err
