from __future__ import annotations

import mmap
import sys

import pytest

from m3agiqa import memory

SIZE = 64 << 20


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts in /proc")
def test_memory_counts_once_it_is_touched_and_data_before() -> None:
    resident, data = memory.resident_bytes(), memory.data_bytes()
    assert resident > 1 << 20

    with mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as block:
        mapped, reserved = memory.resident_bytes(), memory.data_bytes()
        block.write(b"x" * SIZE)
        touched = memory.resident_bytes()

    assert mapped - resident < SIZE / 2
    assert reserved - data >= SIZE / 2
    assert touched - mapped >= SIZE / 2


def test_a_system_without_a_count_gives_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(memory.Path, "read_text", missing)

    assert (memory.resident_bytes(), memory.data_bytes()) == (0, 0)
