"""Measures the memory of a worker and its decoders."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

#: Seconds between two measurements.
_LOOK_S = 0.1


def tree_bytes(pid: int) -> int:
    """Memory of a process and its children: their proportional shares of resident memory, and the memory files by which
    they pass images, which are resident in none of them.
    """
    return sum(_resident_bytes(each) for each in (pid, *_children(pid))) + _passed_bytes(pid)


def _children(pid: int) -> list[int]:
    lists = (_read(task / "children") for task in Path(f"/proc/{pid}/task").iterdir())
    return [int(child) for children in lists for child in children.split()]


def _resident_bytes(pid: int) -> int:
    fields = (line.split() for line in _read(Path(f"/proc/{pid}/smaps_rollup")).splitlines())
    return next((1024 * int(field[1]) for field in fields if field[0] == "Pss:"), 0)


def _passed_bytes(pid: int) -> int:
    total = 0
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            if str(descriptor.readlink()).startswith("/memfd:"):
                total += 512 * descriptor.stat().st_blocks
    return total


def _read(file: Path) -> str:
    """The text of a file of /proc; empty if its process or thread has ended."""
    with suppress(OSError):
        return file.read_text(encoding="ascii")
    return ""


class Memory:
    """The most memory that a worker and its decoders take while they are watched."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.before = self.peak = tree_bytes(pid)

    @contextmanager
    def watched(self) -> Iterator[None]:
        over = threading.Event()

        def watch() -> None:
            while not over.wait(_LOOK_S):
                self.peak = max(self.peak, tree_bytes(self._pid))

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
