"""How much memory this process has, by its own count in /proc; 0 where the system keeps none."""

from __future__ import annotations

import os
from pathlib import Path


def resident_bytes() -> int:
    """Bytes of RAM that this process occupies now."""
    return _bytes(field=1)


def data_bytes() -> int:
    """Bytes that RLIMIT_DATA counts: heap, stack and private mappings, whether they are in RAM or not."""
    return _bytes(field=5)


def _bytes(*, field: int) -> int:
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()
    except FileNotFoundError:
        return 0
    return int(pages[field]) * os.sysconf("SC_PAGE_SIZE")
