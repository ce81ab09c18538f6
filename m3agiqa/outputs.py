"""Files that commands write: whole or not at all, to whatever kind of file a path names."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from m3agiqa.errors import RequestInvalid


def check_writable(path: Path, *inputs: Path) -> None:
    """Find out before the work, not after it.

    Args:
        path: where something is to be written; a link stands for what it leads to.
        inputs: files that are read, which `path` must not replace.

    Raises:
        RequestInvalid: `path` is a folder, lies in none that can be written to, or is one of `inputs`.
    """
    try:
        target = Path(os.path.realpath(path))
        if target.is_dir():
            raise RequestInvalid(f"cannot write {path}: it is a folder")
        for taken in inputs:
            if target.is_file() and taken.exists() and target.samefile(taken):
                raise RequestInvalid(f"cannot write {path}: it is read as {taken}; name another file")
        if not _is_replaced(target):
            if not os.access(target, os.W_OK):
                raise RequestInvalid(f"cannot write {path}: Permission denied")
            return
        # A name that is too long, or of bytes that the file system refuses, shows only when it is used.
        target.exists()
        with tempfile.TemporaryFile(dir=target.parent):
            pass
    except OSError as error:
        raise RequestInvalid(f"cannot write {path}: {error.strerror}") from error


def write(path: Path, text: str) -> None:
    """Write a whole file of UTF-8, or none.

    Raises:
        RequestInvalid: it cannot be written.
    """
    with replacing(path) as partial:
        # The text brings its own line ends.
        partial.write_text(text, encoding="utf-8", newline="")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write, which takes the place of `path` when the block ends well and is gone otherwise.

    The new file has the old one's mode; where `path` is a link, the link stays. A device or a pipe is written itself.

    Raises:
        RequestInvalid: it cannot be written.
    """
    try:
        target = Path(os.path.realpath(path))
        if not _is_replaced(target):
            yield target
            return
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=".m3agiqa-", suffix=target.suffix[:16])
        os.close(handle)
        partial = Path(name)
        try:
            yield partial
            partial.chmod(_mode(target))
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise RequestInvalid(f"cannot write {path}: {error.strerror}") from error


def _is_replaced(target: Path) -> bool:
    """Whether a new file may take its place: devices and pipes are not ours to replace."""
    return target.is_file() or not target.exists()


def _mode(target: Path) -> int:
    try:
        return stat.S_IMODE(target.stat().st_mode)
    except FileNotFoundError:
        umask = os.umask(0)
        os.umask(umask)
        return 0o666 & ~umask
