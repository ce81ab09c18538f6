"""Writes files that users name: whole or not at all, whatever kind of file the path leads to."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from m3agiqa.errors import OutputError

#: Seconds to wait for somebody to read from a pipe.
READER_S = 5.0

_GOES_ON = "; what was done so far is kept, and the same command goes on from there"


def check_writable(path: Path, *inputs: Path, kept: bool = False) -> None:
    """See before the work whether a file can be written.

    Args:
        path: the file; of a link, what it leads to.
        inputs: files that are read, which `path` must not replace.
        kept: a later run reads the file again, so it must be no device or pipe.

    Raises:
        OutputError: `path` is a folder, is one of `inputs`, or cannot be written to.
    """
    try:
        there = _stat(path)
        if there is None or stat.S_ISREG(there.st_mode):
            for taken in inputs:
                if there is not None and taken.exists() and taken.samefile(path):
                    raise OutputError(f"cannot write {path}: it is read as {taken}; name another file")
            with tempfile.TemporaryFile(dir=os.path.dirname(os.path.realpath(path))):  # noqa: PTH120
                return
        if stat.S_ISDIR(there.st_mode):
            raise OutputError(f"cannot write {path}: it is a folder")
        if kept:
            raise OutputError(f"cannot write {path}: it is a device or a pipe, and must be a file")
        if not os.access(path, os.W_OK):
            raise OutputError(f"cannot write {path}: Permission denied")
    except (OSError, ValueError) as error:
        raise _refused(path, error) from error


def make_folder(path: Path) -> None:
    """Make a folder and those above it, and see that it takes files.

    Raises:
        OutputError: it cannot be made, takes no files, or is a file.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except (OSError, ValueError) as error:
        raise _refused(path, error) from error


def write(path: Path, content: str | bytes) -> None:
    """Write a whole file, or nothing; text as UTF-8, with its line ends unchanged.

    The file keeps its mode and owner, and a link stays a link. A device or pipe is written to, and not replaced.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        data = content.encode() if isinstance(content, str) else content
    except ValueError as error:
        raise _refused(path, error) from error
    with whole(path) as file:
        file.write(data)


@contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which becomes `path` when the block ends, and vanishes if it fails; otherwise as `write`.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        there = _stat(path)
    except (OSError, ValueError) as error:
        raise _refused(path, error) from error
    is_file = there is None or stat.S_ISREG(there.st_mode)
    try:
        with _replacing(Path(os.path.realpath(path)), there) if is_file else _poured(path) as file:
            yield file
    except OSError as error:
        raise _refused(path, error) from error


def append(path: Path, text: str) -> None:
    """Append to a file.

    Raises:
        OutputError: it cannot be written; part of `text` may be in it.
    """
    try:
        with path.open("a", encoding="utf-8", newline="") as file:
            file.write(text)
    except (OSError, ValueError) as error:
        raise _refused(path, error, _GOES_ON) from error


@contextmanager
def told_full_disk(folder: Path) -> Iterator[None]:
    """Turn the errors of a library that writes into `folder`, where the disk is full, into ours.

    Raises:
        OutputError: a file cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise _refused(folder, error, _GOES_ON) from error
    except Exception as error:
        # The errors of torch and safetensors show only in their message that the disk is full.
        if not re.search(
            r"PytorchStreamWriter|inline_container|iostream|No space left|File too large|Disk quota|I/O error",
            str(error),
        ):
            raise
        raise OutputError(f"cannot write {folder}: {' '.join(str(error).split())}{_GOES_ON}") from error


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Lock the file or folder `path` while the block runs, against other processes that call this.

    Raises:
        OutputError: another process has it.
    """
    target = Path(os.path.realpath(path))
    folder, name = (target, "") if target.is_dir() else (target.parent, target.name)
    lock = folder / f".m3agiqa-{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}.lock"
    try:
        handle = _locked(lock)
    except BlockingIOError:
        raise OutputError(f"another run writes to {path}: wait for its end, or name another place") from None
    except (OSError, ValueError) as error:
        raise _refused(path, error) from error
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(handle)


def _locked(lock: Path) -> int:
    while True:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The process that held the lock may have removed the file in between.
            if lock.exists() and os.path.samestat(os.fstat(handle), lock.stat()):
                return handle
        except OSError as error:
            if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):  # a file system without locks
                return handle
            os.close(handle)
            raise
        os.close(handle)


def _stat(path: Path) -> os.stat_result | None:
    """The state of what `path` leads to; None if that does not exist."""
    try:
        return path.stat()
    except FileNotFoundError:
        return None


@contextmanager
def _replacing(target: Path, there: os.stat_result | None) -> Iterator[BinaryIO]:
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=".m3agiqa-")
    partial = Path(name)
    try:
        with open(handle, "wb") as file:  # noqa: PTH123
            yield file
        if there is None:
            partial.chmod(0o666 & ~_umask())
        else:
            with suppress(PermissionError):
                os.chown(partial, there.st_uid, there.st_gid)
            partial.chmod(stat.S_IMODE(there.st_mode))
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _poured(path: Path) -> Iterator[BinaryIO]:
    handle = _opened(path)
    os.set_blocking(handle, True)
    with open(handle, "wb") as file:  # noqa: PTH123
        yield file


def _opened(path: Path) -> int:
    until = time.monotonic() + READER_S
    while True:
        try:
            # O_NONBLOCK: opening a pipe that nobody reads from would wait without end.
            return os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            if time.monotonic() > until:
                raise OSError(errno.ENXIO, "nobody reads from it") from None
            time.sleep(0.02)


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def _refused(path: Path, error: OSError | ValueError, kept: str = "") -> OutputError:
    return OutputError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}{kept}")
