"""Questions about paths of users: where a name is too long, or its folder closed, the answer is no, not an error."""

from __future__ import annotations

from pathlib import Path


def is_file(path: Path) -> bool:
    """Whether `path` leads to a regular file."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def exists(path: Path) -> bool:
    """Whether `path` leads to anything that can be looked at."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False
