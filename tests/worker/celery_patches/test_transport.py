"""kombu with our transport, on a real Valkey."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
from kombu import Connection
from redis import Redis

from m3agiqa.queue import keys
from tests.support import PATIENCE_S
from worker.celery_patches import wakeups


@pytest.fixture
def connection(redis_url: str) -> Iterator[Connection]:
    options = {"queue_order_strategy": "priority", "priority_steps": list(keys.PRIORITIES), "sep": keys.SEPARATOR}
    with Connection(
        redis_url, transport="worker.celery_patches.transport:NamesOnlyTransport", transport_options=options
    ) as connection:
        yield connection


def test_what_workers_tell_each_other_comes_as_it_was_written(connection: Connection, redis: Redis) -> None:
    # given an answer on a list of Celery's own, as a starting worker gets from its neighbours
    answers = connection.SimpleQueue("1b4e28ba.reply.celery.pidbox")
    answers.put({"neighbour@host": {"clock": 7}})
    # when it is read the worker's way
    answer = answers.get(timeout=30)
    # then it arrives
    assert answer.payload == {"neighbour@host": {"clock": 7}}
    answer.ack()
    answers.close()


def test_commands_share_a_client_as_long_as_its_connections_last(connection: Connection) -> None:
    channel = connection.channel()
    with channel.conn_or_acquire() as one, channel.conn_or_acquire() as another:
        assert one is another
    # when they are closed, as after a lost connection
    channel._disconnect_pools()
    # then the next commands have new ones
    with channel.conn_or_acquire() as later:
        assert later is not one
        assert later.ping()


@pytest.mark.parametrize("priority", keys.PRIORITIES)
def test_a_bare_name_comes_as_a_message_that_was_written_here(
    priority: int, connection: Connection, redis: Redis
) -> None:
    # given a name on a list
    redis.lpush(keys.wakeups(keys.SCORE_QUEUE, priority), "r")
    # when it is taken
    names = connection.SimpleQueue(keys.SCORE_QUEUE)
    taken = names.get(timeout=PATIENCE_S)
    # then Celery sees a task of that name
    assert taken.headers["task"] == keys.SCORE_TASK
    assert taken.headers["id"] == "r"
    assert taken.payload[0] == ["r"]
    # and once it is done with, nothing of it is left
    assert redis.hlen("unacked") == 1
    taken.ack()
    assert redis.hlen("unacked") == 0
    names.close()


@pytest.mark.parametrize("priority", keys.PRIORITIES)
def test_what_is_put_back_comes_again_from_the_list_it_was_on(
    priority: int, connection: Connection, redis: Redis
) -> None:
    # given a name that was taken
    waits = keys.wakeups(keys.SCORE_QUEUE, priority)
    redis.lpush(waits, "r")
    names = connection.SimpleQueue(keys.SCORE_QUEUE)
    taken = names.get(timeout=PATIENCE_S)
    # when it is put back, as by a worker that stops
    taken.requeue()
    # then it lies there as a whole message, and is a task of the same name again
    assert redis.hlen("unacked") == 0
    [raw] = redis.lrange(waits, 0, -1)
    assert wakeups.name_in(raw.encode(), keys.SCORE_QUEUE) == "r"
    again = names.get(timeout=PATIENCE_S)
    assert again.payload[0] == ["r"]
    again.ack()
    names.close()


def test_what_names_nothing_is_dropped_with_a_line_that_does_not_show_it(
    connection: Connection, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    # given messages that carry no name, before one that does
    secret = json.dumps({"headers": {"id": 7}, "body": "a private wish"})
    redis.lpush(keys.DELIVER_QUEUE, secret, "private:wish", b"private \xff\xfe", "r:callback")
    # when they are taken
    names = connection.SimpleQueue(keys.DELIVER_QUEUE)
    with caplog.at_level(logging.WARNING):
        taken = names.get(timeout=PATIENCE_S)
    # then only the name comes, and each of the others was told of
    assert taken.headers["id"] == "r:callback"
    assert redis.llen(keys.DELIVER_QUEUE) == 0
    assert caplog.messages == ["a message on deliver named no task and was dropped"] * 3
    taken.ack()
    names.close()
