"""Workers, producers and whoever looks, on a Redis whose primary is killed while they are at work."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from m3agiqa.errors import QueueUnavailable
from m3agiqa.queue import overview, server
from m3agiqa.queue.connection import Connection
from producers import Client, State
from tests.sentinels import PASSWORD, SENTINEL_PASSWORD, Replicated, replicated
from tests.support import PATIENCE_S, Web, eventually
from tests.worker.redis_access import neighbours, running

REQUESTS = 60


@pytest.fixture
def redis_with_sentinel(tmp_path: Path) -> Iterator[Replicated]:
    with replicated(tmp_path) as found:
        yield found


def submit_all(client: Client, web: Web, submitted: list[str]) -> None:
    """Submit as a producer should: what was not acknowledged again, under its id."""
    for number in range(REQUESTS):
        name = f"r{number}"
        while name not in submitted:
            with suppress(QueueUnavailable):
                client.submit(image_url=web.url(f"{name}.png"), prompt="", callback_url=web.url(name), request_id=name)
                submitted.append(name)


def test_what_was_acknowledged_outlives_the_primary(redis_with_sentinel: Replicated, web: Web, tmp_path: Path) -> None:
    # given workers, and a producer who is told so once a replica has a request
    url = redis_with_sentinel.url
    submitted: list[str] = []
    with (
        running(tmp_path, dict.fromkeys(("score", "deliver"), url), web, lease_s=2),
        Client(f"{url}&replicas=1") as producer,
        closing(Connection(url)) as exporter,
    ):
        assert len(neighbours(url)) == 2
        producing = threading.Thread(target=submit_all, args=(producer, web, submitted))
        producing.start()
        # when the primary is killed while all are at work
        eventually(lambda: len(submitted) > REQUESTS // 4, "some requests")
        with redis_with_sentinel.losing_primary():
            pass
        producing.join(PATIENCE_S)
        # then all is done that was submitted before, meanwhile and after
        for name in submitted:
            assert producer.result(name, timeout=PATIENCE_S).status == "scored"
            eventually(lambda: producer.state(name) == State.SETTLED, f"the delivery of {name}")  # noqa: B023
        assert len(submitted) == REQUESTS
        assert {name for name in submitted if web.count(name) == 0} == set()
        # and whoever looks sees the new one
        assert overview.read(exporter).tasks_owed == 0
        assert server.look(url).unfit is None
        eventually(lambda: len(neighbours(url)) == 2, "both workers answer")
    logs = "".join((tmp_path / queue / "log").read_text(encoding="utf-8") for queue in ("score", "deliver"))
    assert SENTINEL_PASSWORD not in logs
    assert f":{PASSWORD}@" not in logs
