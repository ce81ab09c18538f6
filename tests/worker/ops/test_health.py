from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

from tests.support import eventually
from worker.ops import health as ours
from worker.ops.health import STALE_S, Health, is_live, is_ready, main


@pytest.fixture
def another_pid() -> int:
    """The id of a process that has ended."""
    ended = subprocess.Popen(["true"])
    ended.wait()
    return ended.pid


def file_of(folder: Path, what: str, queue: str, pid: int) -> Path:
    return folder / f"{what}-{queue}-{socket.gethostname()}-{pid}"


def age(folder: Path) -> None:
    """Let so much time pass that whatever is in there is stale."""
    long_ago = time.time() - STALE_S - 1
    for file in folder.iterdir():
        os.utime(file, (long_ago, long_ago))


def test_a_worker_that_is_well(tmp_path: Path) -> None:
    # given a worker that consumes two queues
    health = Health(tmp_path / "new", ["score", "deliver"], alive=lambda: True)
    eventually(lambda: is_live(tmp_path / "new", "score") and is_live(tmp_path / "new", "deliver"), "heartbeats")
    assert not is_ready(tmp_path / "new", "score")
    # when it takes work
    health.ready()
    # then it is ready, until it stops
    assert is_ready(tmp_path / "new", "score")
    health.stop()
    assert list((tmp_path / "new").iterdir()) == []


def test_files_of_a_predecessor_count_for_nothing(tmp_path: Path) -> None:
    # given what a worker left that was killed, and had the same process id, as the first of any container
    for what in ("heartbeat", "ready"):
        file_of(tmp_path, what, "score", os.getpid()).touch()
    assert is_live(tmp_path, "score")
    # when its successor starts
    health = Health(tmp_path, ["score"], alive=lambda: False)
    # then neither is believed
    assert not is_live(tmp_path, "score")
    assert not is_ready(tmp_path, "score")
    health.stop()


def test_files_of_those_that_were_killed_long_ago_are_taken_away(tmp_path: Path, another_pid: int) -> None:
    # given files that nobody renews, and those of a neighbour that lives
    killed, neighbour = (
        [file_of(tmp_path, what, "score", pid) for what in ("heartbeat", "ready")]
        for pid in (another_pid, os.getppid())
    )
    for file in killed:
        file.touch()
    age(tmp_path)
    for file in neighbour:
        file.touch()
    # when a worker starts
    health = Health(tmp_path, ["score"], alive=lambda: False)
    # then the folder does not grow with every worker that ever was
    assert sorted(tmp_path.iterdir()) == neighbour
    health.stop()


def test_a_heartbeat_goes_stale(tmp_path: Path) -> None:
    # given a worker that was ready and then hung
    health = Health(tmp_path, ["score"], alive=lambda: True)
    eventually(lambda: is_live(tmp_path, "score"), "a heartbeat")
    health.ready()
    # when its last heartbeat is long ago
    age(tmp_path)
    # then it is neither live nor ready
    assert not is_live(tmp_path, "score")
    assert not is_ready(tmp_path, "score")
    health.stop()


def test_one_that_does_not_work_now_lives_and_is_not_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # given a worker that is ready
    monkeypatch.setattr(ours, "INTERVAL_S", 0.01)
    works = threading.Event()
    works.set()
    health = Health(tmp_path, ["score"], alive=lambda: True, working=works.is_set)
    health.ready()
    assert is_ready(tmp_path, "score")
    # when Redis lets it do nothing
    works.clear()
    # then it says so, until that is over
    eventually(lambda: not is_ready(tmp_path, "score"), "not ready")
    assert is_live(tmp_path, "score")
    works.set()
    eventually(lambda: is_ready(tmp_path, "score"), "ready again")
    health.stop()


def test_neighbours_share_a_folder(tmp_path: Path, another_pid: int) -> None:
    # given a worker that is ready, and a neighbour's files
    theirs = [file_of(tmp_path, what, "score", another_pid) for what in ("heartbeat", "ready")]
    health = Health(tmp_path, ["score"], alive=lambda: True)
    health.ready()
    for file in theirs:
        file.touch()
    # when each is asked for
    pids = (None, os.getpid(), another_pid)
    assert [is_ready(tmp_path, "score", pid) for pid in pids] == [True, True, True]
    # then the end of one is not that of the other
    health.stop()
    assert [is_ready(tmp_path, "score", pid) for pid in pids] == [True, False, True]
    assert [is_live(tmp_path, "score", pid) for pid in pids] == [True, False, True]
    assert sorted(tmp_path.iterdir()) == theirs


def test_a_neighbour_on_another_machine_is_no_worker_of_this_one(tmp_path: Path) -> None:
    for what in ("heartbeat", "ready"):
        (tmp_path / f"{what}-score-elsewhere-{os.getpid()}").touch()
    assert not is_live(tmp_path, "score")
    assert not is_ready(tmp_path, "score")


def test_a_probe_without_a_folder_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("M3AGIQA_HEALTH_DIR", raising=False)
    assert main(["live", "score"]) == 2
    assert "M3AGIQA_HEALTH_DIR" in capsys.readouterr().err
