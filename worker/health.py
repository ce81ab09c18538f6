"""Files that tell a container's probes how a worker is, and the command that reads them.

`python -m worker.health ready|live QUEUE` exits 0 if the worker of that queue takes work (ready) or is alive (live).
A worker is alive only from the end of its start-up, so give a probe of `live` a start-up probe of `ready` before it.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from m3agiqa.errors import ConfigError
from worker.settings import Settings

INTERVAL_S = 5.0
#: Seconds without a heartbeat after which a worker counts as dead.
STALE_S = 30.0


def heartbeat_file(folder: Path, queue: str) -> Path:
    return folder / f"heartbeat-{queue}"


def ready_file(folder: Path, queue: str) -> Path:
    return folder / f"ready-{queue}"


class Health:
    """Renews the heartbeat of `queues` from a thread, as long as `alive` says so."""

    def __init__(self, folder: Path, queues: Sequence[str], alive: Callable[[], bool]) -> None:
        self._heartbeats = [heartbeat_file(folder, queue) for queue in queues]
        self._ready = [ready_file(folder, queue) for queue in queues]
        self._alive = alive
        self._stopping = threading.Event()
        folder.mkdir(parents=True, exist_ok=True)
        self._remove()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()

    def ready(self) -> None:
        for file in self._ready:
            file.touch()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()
        self._remove()

    def _run(self) -> None:
        while True:
            if self._alive():
                for file in self._heartbeats:
                    file.touch()
            if self._stopping.wait(INTERVAL_S):
                return

    def _remove(self) -> None:
        for file in (*self._heartbeats, *self._ready):
            file.unlink(missing_ok=True)


def is_live(folder: Path, queue: str) -> bool:
    try:
        return time.time() - heartbeat_file(folder, queue).stat().st_mtime < STALE_S
    except FileNotFoundError:
        return False


def is_ready(folder: Path, queue: str) -> bool:
    return ready_file(folder, queue).exists() and is_live(folder, queue)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the probe; 0 yes, 1 no, 2 wrong usage."""
    parser = argparse.ArgumentParser(prog="python -m worker.health", description="Ask how a worker is.")
    parser.add_argument("question", choices=("ready", "live"))
    parser.add_argument("queue", choices=("score", "deliver"))
    arguments = parser.parse_args(argv)
    try:
        folder = Settings.from_environment().health_dir
        if folder is None:
            raise ConfigError("set M3AGIQA_HEALTH_DIR, for the worker and its probes alike")
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    answer = is_ready if arguments.question == "ready" else is_live
    return 0 if answer(folder, arguments.queue) else 1


if __name__ == "__main__":
    sys.exit(main())
