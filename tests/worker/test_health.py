from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.support import eventually
from worker.health import STALE_S, Health, heartbeat_file, is_live, is_ready, main


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
    for name in ("heartbeat-score", "ready-score"):
        (tmp_path / name).touch()
    health = Health(tmp_path, ["score"], alive=lambda: False)
    assert not is_live(tmp_path, "score")
    assert not is_ready(tmp_path, "score")
    health.stop()


def test_a_heartbeat_goes_stale(tmp_path: Path) -> None:
    # given a worker that was ready and then hung
    health = Health(tmp_path, ["score"], alive=lambda: True)
    eventually(lambda: is_live(tmp_path, "score"), "a heartbeat")
    health.ready()
    # when its last heartbeat is long ago
    long_ago = time.time() - STALE_S - 1
    os.utime(heartbeat_file(tmp_path, "score"), (long_ago, long_ago))
    # then it is neither live nor ready
    assert not is_live(tmp_path, "score")
    assert not is_ready(tmp_path, "score")
    health.stop()


def test_a_probe_without_a_folder_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("M3AGIQA_HEALTH_DIR", raising=False)
    assert main(["live", "score"]) == 2
    assert "M3AGIQA_HEALTH_DIR" in capsys.readouterr().err
