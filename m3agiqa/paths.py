"""Questions about paths of users: the answer is no, not an error, where a name is too long or a folder closed."""

from __future__ import annotations

from pathlib import Path


def is_file(path: Path) -> bool:
    """Whether `path` leads to a regular file."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def exists(path: Path) -> bool:
    """Whether `path` leads to anything that we may look at."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False
