"""Runs the commands of Compose's services without containers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import AuthenticationError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from m3agiqa.queue import keys
from producers import Client
from tests.deploy.files import REQUIRED, SERVICES, STARTED
from tests.deploy.stack import Stack, pings, running, status
from tests.support import PATIENCE_S, Web, eventually

#: Services that are there without a profile.
SHIPPED = [name for name, service in SERVICES.items() if "profiles" not in service]


@pytest.fixture
def stack(tmp_path: Path, web: Web) -> Iterator[Stack]:
    with running(tmp_path, web) as stack:
        yield stack


def test_the_commands_of_all_services_make_a_stack_that_delivers(stack: Stack, web: Web) -> None:
    # given Redis by its command, with users, whose passwords are kept out of the list of processes
    server = stack.up("redis")
    producer = stack.redis_url("producer", "REDIS_PRODUCER_PASSWORD")
    with (
        Redis.from_url(producer, decode_responses=True) as backend,
        Redis.from_url(stack.redis_url("score", "REDIS_PASSWORD"), decode_responses=True) as worker,
        Redis(port=int(stack.ports["6379"])) as stranger,
    ):
        eventually(lambda: pings(backend), "Redis takes its password")
        with pytest.raises(AuthenticationError):
            stranger.ping()
        told = worker.info("everything")
        assert (told["aof_enabled"], told["maxmemory_policy"]) == (1, "noeviction")
        # and without room for entries that nobody sends by right
        with pytest.raises((ResponseError, RedisConnectionError)):  # it hangs up in the middle of it
            backend.lpush(keys.inbox(3), "x" * 2**21)
        assert backend.llen(keys.inbox(3)) == 0
    shown = Path(f"/proc/{server.pid}/cmdline").read_bytes()
    assert not [name for name, value in REQUIRED.items() if value.encode() in shown]
    # when the others start
    for service in STARTED:
        stack.up(service)
    for service in STARTED:
        eventually(lambda service=service: stack.healthy(service), f"{service} is healthy")  # type: ignore[misc]
    # then an image is scored and its verdict delivered, signed
    with Client(producer) as client:
        request_id = client.submit(image_url=web.url("a.png"), prompt="a square", callback_url=web.url("hook"))
        assert client.result(request_id, timeout=PATIENCE_S).status == "scored"
    eventually(lambda: web.count("hook"), "a callback")
    # and Flower wants its password
    flower = f"http://127.0.0.1:{stack.ports['5555']}/"
    assert status(flower) == 401
    assert status(flower, "operator:wrong") == 401
    assert status(flower, f"{REQUIRED['FLOWER_USER']}:{REQUIRED['FLOWER_PASSWORD']}") == 200
    # and the exporter has counted it
    assert 'm3agiqa_verdicts_total{decision="accept",policy="default",status="scored"} 1.0' in stack.metrics("9808")
    # and so have the workers
    counted = 'm3agiqa_worker_images_total{decision="accept",policy="default",status="scored"} 1.0'
    eventually(lambda: counted in stack.metrics("score"), "the count of the worker that scores")
    counted = 'm3agiqa_delivery_attempts_total{kind="callback",outcome="delivered"} 1.0'
    eventually(lambda: counted in stack.metrics("deliver"), "the count of the worker that delivers")
    # and what is stopped stops, Redis too, although a shell started it
    stack.down()
    assert {name: process.returncode for name, process in stack.processes.items()} == dict.fromkeys(SHIPPED, 0)
