"""A real socket stands for systemd's."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from worker.ops.health import Health, is_ready


@pytest.fixture(params=["file", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Where systemd would listen."""
    address = str(tmp_path / "notify") if request.param == "file" else f"@{tmp_path}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(address.replace("@", "\0"))
        listener.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        yield listener


def test_a_worker_says_that_it_lives_and_then_that_it_is_ready(manager: socket.socket, tmp_path: Path) -> None:
    health = Health(tmp_path / "health", ["score"], alive=lambda: True)
    assert manager.recv(100) == b"WATCHDOG=1"
    health.ready()
    assert {manager.recv(100), manager.recv(100)} == {b"WATCHDOG=1", b"READY=1"}
    health.stop()


def test_a_worker_that_hangs_says_nothing(manager: socket.socket, tmp_path: Path) -> None:
    health = Health(tmp_path / "health", ["score"], alive=lambda: False)
    health.stop()
    manager.setblocking(False)
    with pytest.raises(BlockingIOError):
        manager.recv(100)


@pytest.mark.parametrize("manager_is_named", [True, False])
def test_a_manager_that_is_away_stops_nobody(
    manager_is_named: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a worker whose manager does not listen, or that has none
    if manager_is_named:
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    else:
        monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    health = Health(tmp_path / "health", ["score"], alive=lambda: True)
    assert not is_ready(tmp_path / "health", "score")

    # When it has something to tell
    health.ready()

    # Then it is ready all the same
    assert is_ready(tmp_path / "health", "score")
    health.stop()
