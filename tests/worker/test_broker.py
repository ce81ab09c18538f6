from __future__ import annotations

from kombu import Connection
from redis import Redis

from producers import keys


def test_what_workers_tell_each_other_is_no_dead_letter(redis: Redis, redis_url: str) -> None:
    # given an answer on a list of Celery's own, as a starting worker gets from its neighbours
    with Connection(redis_url, transport="worker.broker:Transport") as connection:
        answers = connection.SimpleQueue("1b4e28ba.reply.celery.pidbox")
        answers.put({"neighbour@host": {"clock": 7}})
        # when it is read the worker's way
        answer = answers.get(timeout=30)
        # then it arrives
        assert answer.payload == {"neighbour@host": {"clock": 7}}
        answer.ack()
        answers.close()
    assert redis.hlen(keys.DEAD) == 0


def test_commands_share_a_client_as_long_as_its_connections_last(redis_url: str) -> None:
    with Connection(redis_url, transport="worker.broker:Transport") as connection:
        channel = connection.channel()
        with channel.conn_or_acquire() as one, channel.conn_or_acquire() as another:
            assert one is another
        # when they are closed, as after a lost connection
        channel._disconnect_pools()
        # then the next commands have new ones
        with channel.conn_or_acquire() as later:
            assert later is not one
            assert later.ping()
