from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from redis.exceptions import ConnectionError, OutOfMemoryError

from m3agiqa.errors import QueueUnavailable
from worker.ops.quiet import OnceAMinute


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[logging.Logger]:
    caplog.set_level(logging.INFO)
    logger = logging.getLogger("test_quiet")
    once = OnceAMinute("host:6379")
    logger.addFilter(once)
    yield logger
    logger.removeFilter(once)


def lost(log: logging.Logger, error: Exception) -> None:
    try:
        raise error
    except type(error):
        log.warning("connection lost, trying again...", exc_info=True)


def test_a_trouble_that_many_threads_have_is_told_once(log: logging.Logger, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("inbox 0", "inbox 3", "sweeper", "inbox 0"):
        log.error("%s waits: %s", name, QueueUnavailable("Redis is away"))
    log.error("%s waits: %s", "sweeper", QueueUnavailable("Redis is full"))
    assert caplog.messages == ["inbox 0 waits: Redis is away", "sweeper waits: Redis is full"]


def test_what_a_library_says_of_redis_is_named_in_one_line(
    log: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    # given errors of one kind that carry what differs, one with what a stranger wrote
    for number in range(3):
        lost(log, OutOfMemoryError(f"Command # 1 (ZADD unacked_index {number} hush) of pipeline caused error: command"))
    # when a library tells of them, and of another kind, in several lines
    log.error("Cannot connect to %s: %s.\n%s\n", "redis://host", ConnectionError("Error 111"), "Again in 2 s")
    log.error("Cannot connect to %s: %s.\n%s\n", "redis://host", ConnectionError("Error 111"), "Again in 4 s")
    # then each kind is told once, in a line of its own without a traceback
    first, second = caplog.messages
    assert first.startswith("connection lost, trying again... Redis at host:6379 refused a command: OOM")
    assert second.startswith("Cannot connect to redis://host: Redis at host:6379 cannot be reached")
    assert "\n" not in second
    assert "Traceback" not in caplog.text
    assert "hush" not in caplog.text


def test_what_is_over_may_be_told_again(caplog: pytest.LogCaptureFixture) -> None:
    once = OnceAMinute("host:6379", again_s=0)
    record = logging.makeLogRecord({"msg": "Connected to %s", "args": ("redis://host",)})
    assert [once.filter(record), once.filter(record)] == [True, True]
    patient = OnceAMinute("host:6379")
    assert [patient.filter(record), patient.filter(record)] == [True, False]
