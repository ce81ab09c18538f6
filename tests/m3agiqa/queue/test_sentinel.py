"""Connections that ask a real Sentinel for the primary."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from m3agiqa.errors import QueueUnavailable
from m3agiqa.queue import inbox, keys, server
from m3agiqa.queue.address import Address
from m3agiqa.queue.connection import Connection
from m3agiqa.queue.waiting import Waiting
from producers import Client
from tests.sentinels import MASTER, PASSWORD, SENTINEL_PASSWORD, Replicated, replicated
from tests.support import PATIENCE_S, eventually


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicated]:
    with replicated(tmp_path_factory.mktemp("sentinel")) as found:
        yield found


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        (f"master={MASTER}", "master=other", "name no primary that answers; is the name after master= in the URL"),
        ("sentinel_password=", "sentinel_password=x", "refused the login: check sentinel_username"),
        ("//:word@", "//:other@", "WRONGPASS, it refused the password"),
    ],
)
def test_what_is_wrong_with_a_url_is_said(right: str, wrong: str, said: str, rig: Replicated) -> None:
    assert right in rig.url
    url = rig.url.replace(right, wrong)
    with closing(Connection(url, patience_s=0)) as connection, pytest.raises(QueueUnavailable, match=said) as told:
        connection.call("ping")
    assert SENTINEL_PASSWORD not in str(told.value)


def test_a_sentinel_and_a_redis_are_told_apart(rig: Replicated) -> None:
    sentinel = Address("redis", f"127.0.0.1:{rig.sentinel_port}", 0, password=SENTINEL_PASSWORD).url
    assert "its URL begins with sentinel://" in str(server.look(sentinel).unfit)
    redis = f"sentinel://127.0.0.1:{rig.primary()}?master={MASTER}&sentinel_password={PASSWORD}"
    with (
        closing(Connection(redis, patience_s=0)) as connection,
        pytest.raises(QueueUnavailable, match="it is no Sentinel: its URL begins with redis://"),
    ):
        connection.call("ping")


def test_a_request_counts_as_submitted_once_enough_replicas_have_it(
    rig: Replicated, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Client(f"{rig.url}&replicas=2") as client:
        client.submit(image_url="https://host/a.png", prompt="")
    for port in rig.servers:
        with rig.admin(port) as admin:
            assert admin.llen(keys.inbox(3)) == 1
    # and with too few, whoever submits is told to do so again
    monkeypatch.setattr(inbox, "_REPLICAS_MS", 50)
    with Client(f"{rig.url}&replicas=3") as client, pytest.raises(QueueUnavailable, match="2 of 3 replicas"):
        client.submit(image_url="https://host/a.png", prompt="")


def test_a_primary_with_too_few_replicas_is_named(rig: Replicated) -> None:
    with rig.admin() as admin, closing(Connection(rig.url, patience_s=0)) as connection:
        admin.config_set("min-replicas-to-write", "3")
        try:
            with pytest.raises(QueueUnavailable, match="NOREPLICAS, fewer replicas follow it"):
                connection.call("set", "key", "value")
        finally:
            admin.config_set("min-replicas-to-write", "1")


def test_a_command_and_a_wait_under_way_go_on_at_the_next_primary(rig: Replicated) -> None:
    # given a worker that waits at an empty inbox, and somebody who waits for a verdict
    with (
        closing(Connection(rig.url, patience_s=30)) as connection,
        closing(Connection(rig.url)) as producer,
        closing(Waiting(producer)) as verdicts,
        ThreadPoolExecutor() as threads,
    ):
        result = verdicts.add("r")
        eventually(lambda: all(wait.looked for wait in verdicts._all()), "somebody has looked")
        with rig.admin() as admin:
            waiting = threads.submit(connection.call, "blmove", "list", "list", 5, "RIGHT", "RIGHT")
            eventually(lambda: admin.info("clients")["blocked_clients"], "it waits")
        # when the primary is killed
        with rig.losing_primary():
            pass
        # then both wait at the next one
        with rig.admin() as admin:
            admin.lpush("list", "entry")
            admin.set(keys.result("r"), "verdict")
            admin.publish(keys.done("r"), "")
        assert waiting.result(PATIENCE_S) == "entry"
        assert result.result(PATIENCE_S) == "verdict"
