"""Images that come through Redis, which whoever may submit may write."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import closing

import pytest
from redis import Redis

from m3agiqa.client import Client
from m3agiqa.errors import FetchForbidden, FetchRefused, FetchUnavailable, ImageGone, ImageTooLarge
from m3agiqa.queue import keys
from m3agiqa.queue.connection import Connection
from m3agiqa.queue.images import PART_BYTES
from worker.score.decoding.budget import Budget
from worker.score.fetch import Fetcher
from worker.settings import Settings

DATA = bytes(range(256)) * (PART_BYTES // 100)
URL = f"inline:{hashlib.sha256(DATA).hexdigest()}"


@pytest.fixture
def connection(redis_url: str) -> Iterator[Connection]:
    with closing(Connection(redis_url)) as connection:
        yield connection


def test_an_image_beside_its_request_takes_its_room_in_memory(connection: Connection, client: Client) -> None:
    # given an image of some parts
    client.submit(image=DATA, prompt="", request_id="r")
    budget = Budget(2**30)
    # when it is fetched, then it is there, and has its room
    with budget.hold() as hold:
        assert Fetcher(Settings(), redis=connection).fetch(URL, hold, "r") == DATA
        assert budget.taken_bytes == len(DATA)
    # and no other request has it
    with pytest.raises(ImageGone, match="submit the image again, with retry_failed"):
        Fetcher(Settings(), redis=connection).fetch(URL, request="other")


@pytest.mark.parametrize("limit", ["inline_max_bytes", "fetch_max_bytes"])
def test_a_larger_one_than_a_worker_takes_is_not_read(limit: str, connection: Connection, client: Client) -> None:
    client.submit(image=DATA, prompt="", request_id="r")
    settings = Settings(**{limit: len(DATA) - 1})
    with pytest.raises(ImageTooLarge):
        Fetcher(settings, redis=connection).fetch(URL, request="r")


@pytest.mark.parametrize("at", [0, 1])
def test_bytes_that_somebody_changed_or_took_away_are_no_image(
    at: int, connection: Connection, client: Client, redis: Redis
) -> None:
    client.submit(image=DATA, prompt="", request_id="r")
    part = f"{URL.removeprefix('inline:')}:{at}"
    redis.hset(keys.image("r"), part, "forged")
    with pytest.raises(FetchRefused, match="not those that the request names"):
        Fetcher(Settings(), redis=connection).fetch(URL, request="r")
    redis.hdel(keys.image("r"), part)
    with pytest.raises(ImageGone if at == 0 else FetchRefused):
        Fetcher(Settings(), redis=connection).fetch(URL, request="r")


def test_what_redis_refuses_to_read_is_an_attempt_that_failed(
    connection: Connection, redis: Redis, redis_url: str
) -> None:
    # given a key that a stranger made of another type
    redis.set(keys.image("r"), "no hash")
    with pytest.raises(FetchUnavailable, match=r"the bytes in Redis cannot be read: .*WRONGTYPE"):
        Fetcher(Settings(), redis=connection).fetch(URL, request="r")
    # and a user that may not read images
    redis.acl_setuser("blind", enabled=True, passwords=["+p"], commands=["+@all"], keys=["other:*"])
    url = redis_url.replace("redis://", "redis://blind:p@")
    with closing(Connection(url)) as blind, pytest.raises(FetchUnavailable, match="NOPERM"):
        Fetcher(Settings(), redis=blind).fetch(URL, request="r")


def test_who_has_no_redis_reads_none() -> None:
    with pytest.raises(FetchForbidden):
        Fetcher(Settings()).fetch(URL, request="r")
