"""Files by which a worker tells a container's probes that it lives and takes work, and the command that reads them.

`python -m worker.ops.health ready|live QUEUE` exits 0 if a worker of that queue takes work (ready) or is alive (live).
A worker counts as alive only from the end of its start-up: put a start-up probe of `ready` before a probe of `live`.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from m3agiqa import console
from m3agiqa.errors import ConfigError
from worker.ops import systemd
from worker.settings import Settings

INTERVAL_S = 5.0
#: Seconds without a heartbeat after which a worker counts as dead.
STALE_S = 30.0


class Health:
    """Renews the heartbeat files of `queues` from a thread while `alive` returns true, and the files that say "ready"
    from the call of `ready` on, while `working` returns true. systemd is told both, where it asks for it.

    The files bear host and process id, so that workers may share a folder.

    Raises:
        ConfigError: nothing can be written to the folder.
    """

    def __init__(
        self,
        folder: Path,
        queues: Sequence[str],
        *,
        alive: Callable[[], bool],
        working: Callable[[], bool] = lambda: True,
    ) -> None:
        self._heartbeats = [folder / _name("heartbeat", queue, os.getpid()) for queue in queues]
        self._readies = [folder / _name("ready", queue, os.getpid()) for queue in queues]
        self._alive, self._working = alive, working
        self._is_ready = False
        self._looking = threading.Lock()
        self._stopping = threading.Event()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._heartbeats[0].touch()
        except OSError as error:
            raise ConfigError(f"M3AGIQA_HEALTH_DIR: {console.reason(error)}") from None
        for queue in queues:
            for file in (*_files(folder, "heartbeat", queue), *_files(folder, "ready", queue)):
                if not _fresh(file):  # a worker was killed
                    file.unlink(missing_ok=True)
        self._remove()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()

    def ready(self) -> None:
        self._is_ready = True
        self._look()
        systemd.notify(systemd.READY)

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()
        self._remove()

    def _run(self) -> None:
        while True:
            self._look()
            if self._stopping.wait(INTERVAL_S):
                return

    def _look(self) -> None:
        with self._looking:
            if not self._alive():
                return
            systemd.notify(systemd.ALIVE)
            ready = self._is_ready and self._working()
            for heartbeat, file in zip(self._heartbeats, self._readies, strict=True):
                heartbeat.touch()
                if ready:
                    file.touch()
                else:
                    file.unlink(missing_ok=True)

    def _remove(self) -> None:
        for file in (*self._heartbeats, *self._readies):
            file.unlink(missing_ok=True)


def is_live(folder: Path, queue: str, pid: int | None = None) -> bool:
    """Whether a worker of this machine is alive; `pid` asks for one of many."""
    return any(map(_fresh, _files(folder, "heartbeat", queue, pid)))


def is_ready(folder: Path, queue: str, pid: int | None = None) -> bool:
    """Whether a worker of this machine takes work; `pid` asks for one of many."""
    return any(map(_fresh, _files(folder, "ready", queue, pid)))


def _name(what: str, queue: str, pid: int | str) -> str:
    return f"{what}-{queue}-{socket.gethostname()}-{pid}"


def _files(folder: Path, what: str, queue: str, pid: int | None = None) -> list[Path]:
    return list(folder.glob(_name(what, queue, "*" if pid is None else pid)))


def _fresh(file: Path) -> bool:
    try:
        return time.time() - file.stat().st_mtime < STALE_S
    except FileNotFoundError:
        return False


def main(argv: Sequence[str] | None = None) -> int:
    """Run the probe; 0 yes, 1 no, 2 wrong usage."""
    parser = argparse.ArgumentParser(prog="python -m worker.ops.health", description="Ask how a worker is.")
    parser.add_argument("question", choices=("ready", "live"))
    parser.add_argument("queue", choices=("score", "deliver"))
    parser.add_argument(
        "--pid", type=int, metavar="N", help="process id of the worker, where several share this machine"
    )
    arguments = parser.parse_args(argv)
    try:
        folder = Settings.from_environment().health_dir
        if folder is None:
            raise ConfigError("set M3AGIQA_HEALTH_DIR, for the worker and its probes alike")
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    answer = is_ready if arguments.question == "ready" else is_live
    return 0 if answer(folder, arguments.queue, arguments.pid) else 1


if __name__ == "__main__":
    sys.exit(main())
