"""Workers, producers and whoever looks, on a Redis whose primary is killed while they are at work."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from celery import Celery
from pydantic import SecretStr

from m3agiqa.errors import QueueUnavailable
from m3agiqa.queue import keys, overview, server
from m3agiqa.queue.connection import Connection
from producers import Client, State
from tests.sentinels import PASSWORD, SENTINEL_PASSWORD, Replicated, replicated
from tests.support import PATIENCE_S, Web, eventually
from tests.worker.redis_access import neighbours, running, terminating
from worker.app import configuration
from worker.settings import Settings

REQUESTS = 60


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicated]:
    with replicated(tmp_path_factory.mktemp("sentinel")) as found:
        yield found


def test_sentinels_and_redis_are_reached_over_tls(rig: Replicated, certificate: tuple[Path, Path]) -> None:
    # given a Sentinel and a primary that speak TLS, and are trusted because of their authority alone
    primary = rig.primary()
    with (
        terminating(certificate, primary) as redis_port,
        terminating(certificate, rig.sentinel_port, (b"%d" % primary, b"%d" % redis_port)) as sentinel_port,
    ):
        tls = rig.url.replace("sentinel://", "sentinels://").replace(str(rig.sentinel_port), str(sentinel_port))
        url = f"{tls}&namespace=tls&ssl_ca_certs={certificate[0]}"
        # when a producer submits, then its request is there
        with Client(url) as client:
            client.submit(image_url="https://host/a.png", prompt="")
            assert client.overview().waiting[3] == 1
        # and Celery gets there
        with Celery(set_as_current=False) as celery:
            celery.conf.update(configuration(Settings(redis_url=SecretStr(url))))
            with celery.connection_for_read() as connection:
                assert connection.default_channel.client.llen("m3agiqa:inbox:3") == 1
        # and who does not know the authority does not
        with closing(Connection(tls, patience_s=0)) as stranger, pytest.raises(QueueUnavailable):
            stranger.call("ping")


def submit_all(client: Client, web: Web, submitted: list[str]) -> None:
    """Submit as a producer should: what was not acknowledged again, under its id."""
    for number in range(REQUESTS):
        name = f"r{number}"
        while name not in submitted:
            with suppress(QueueUnavailable):
                client.submit(image_url=web.url(f"{name}.png"), prompt="", callback_url=web.url(name), request_id=name)
                submitted.append(name)


def hurried(connection: Connection) -> bool:
    """Let half a minute pass for names on their way to a worker: then those that were lost come again."""
    for task in connection.call("zrange", keys.OWED, 0, -1):
        name, _, kind = str(task).partition(":")
        if float(connection.call("hget", keys.request(name), f"{kind or 'score'}.queued") or 0) > 0:
            connection.call("zincrby", keys.OWED, -30, task)
    return True


def settled(client: Client, names: list[str]) -> bool:
    return all(client.state(name) == State.SETTLED for name in names)


def test_what_was_acknowledged_outlives_the_primary(rig: Replicated, web: Web, tmp_path: Path) -> None:
    # given workers, and a producer who is told so once a replica has a request
    url = rig.url
    submitted: list[str] = []
    with (
        running(tmp_path, dict.fromkeys(("score", "deliver"), url), web, lease_s=2),
        Client(f"{url}&replicas=1") as producer,
        closing(Connection(url)) as exporter,
        closing(Connection(url, patience_s=PATIENCE_S)) as patient,
    ):
        assert len(neighbours(url)) == 2
        producing = threading.Thread(target=submit_all, args=(producer, web, submitted))
        producing.start()
        # when the primary is killed while all are at work
        eventually(lambda: len(submitted) > REQUESTS // 4, "some requests")
        with rig.losing_primary():
            pass
        producing.join(PATIENCE_S)
        # then all is done that was submitted before, meanwhile and after
        eventually(lambda: hurried(patient) and settled(producer, submitted), "every request is settled")
        assert {producer.result(name, timeout=0).status for name in submitted} == {"scored"}
        assert len(submitted) == REQUESTS
        assert {name for name in submitted if web.count(name) == 0} == set()
        # and whoever looks sees the new one
        assert overview.read(exporter).tasks_owed == 0
        assert server.look(url).unfit is None
        eventually(lambda: len(neighbours(url)) == 2, "both workers answer")
    logs = "".join((tmp_path / queue / "log").read_text(encoding="utf-8") for queue in ("score", "deliver"))
    assert SENTINEL_PASSWORD not in logs
    assert f":{PASSWORD}@" not in logs
