from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from redis import Redis

from m3agiqa.errors import QueueUnavailable
from m3agiqa.queue import keys
from m3agiqa.queue.ledger import Ledger, whoami
from tests.support import PATIENCE_S, eventually
from worker.ops.loops import Loop, presence_loop


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    gate = threading.Event()
    yield gate
    gate.set()


def test_a_loop_that_does_not_come_round_is_not_alive(gate: threading.Event) -> None:
    # given a loop whose turn waits
    loop = Loop("waiting", lambda: bool(gate.wait(PATIENCE_S)) and None, pause_s=0.01, stuck_s=0.1)
    # then it is alive no more, and is again once the turn ends
    eventually(lambda: not loop.alive, "it hangs")
    gate.set()
    eventually(lambda: loop.alive, "it comes round")
    Loop.stop([loop])
    assert not loop.alive


def test_one_that_redis_refuses_comes_round(caplog: pytest.LogCaptureFixture) -> None:
    # given a loop that Redis lets do nothing
    def refuse() -> None:
        raise QueueUnavailable("Redis is away")

    loop = Loop("refused", refuse, stuck_s=PATIENCE_S)
    eventually(lambda: loop.refused, "a turn that was refused")
    assert loop.alive
    Loop.stop([loop])
    assert "refused waits: Redis is away" in caplog.text


def test_a_turn_with_more_to_do_is_followed_at_once_by_the_next() -> None:
    # given a loop with more to do than it would get through with its pauses
    turns: list[bool] = []

    def turn() -> bool:
        turns.append(True)
        return len(turns) < 3 * PATIENCE_S

    loop = Loop("eager", turn, pause_s=1)
    # then it makes none until it is done
    eventually(lambda: len(turns) >= 3 * PATIENCE_S, "its turns")
    Loop.stop([loop])
    assert not loop.refused


def test_a_worker_that_does_not_live_says_no_more_that_it_is_there(
    ledger: Ledger, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a worker that lives, and is registered
    monkeypatch.setattr("m3agiqa.queue.overview.REGISTER_S", 0.01)
    lives, looks = [True], [0]

    def alive() -> bool:
        looks[0] += 1
        return lives[0]

    loop = presence_loop(ledger, alive, ["score"], "mini")
    key = keys.worker(whoami())
    eventually(lambda: redis.exists(key), "its registration")
    # when it hangs
    lives[0] = False
    eventually_further(looks)
    redis.delete(key, keys.WORKERS)
    # then it is registered no more
    eventually_further(looks)
    assert not redis.exists(key, keys.WORKERS)
    # until it lives again
    lives[0] = True
    eventually(lambda: redis.exists(key) and redis.zscore(keys.WORKERS, whoami()), "its registration")
    Loop.stop([loop])


def eventually_further(looks: list[int]) -> None:
    """Wait until a look that began after this call is done."""
    until = looks[0] + 2
    eventually(lambda: looks[0] >= until, "two more looks")
