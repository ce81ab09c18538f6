"""Reads files that users name: without waiting for ever, and with an error that names the file."""

from __future__ import annotations

import os
import select
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from m3agiqa.errors import DataError
from m3agiqa.quoting import PATH_CHARS, quoted

#: Seconds to wait for somebody to write to a pipe.
WRITER_S = 5.0


def opened(path: Path) -> BufferedReader:
    """Open a file or a pipe for reading.

    Raises:
        DataError: it is missing, not readable, a folder, a device, or a pipe that nobody writes to.
    """
    try:
        # O_NONBLOCK: opening a pipe that nobody writes to would wait.
        file = open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb")  # noqa: PTH123, SIM115
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    mode = os.fstat(file.fileno()).st_mode
    if stat.S_ISREG(mode):
        return file
    if stat.S_ISFIFO(mode) and _is_written_to(file):
        os.set_blocking(file.fileno(), True)
        return file
    file.close()
    # Reading a device may never end.
    kind = "a pipe that nobody writes to" if stat.S_ISFIFO(mode) else "a device, and not a file"
    raise DataError(f"{quoted(path, PATH_CHARS)}: {kind}")


def read_bytes(path: Path) -> bytes:
    """The content of a file or a pipe.

    Raises:
        DataError: as `opened`.
    """
    with opened(path) as file, reading(path):
        return file.read()


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Name the file in what goes wrong while it is read.

    Raises:
        DataError: it cannot be read.
    """
    try:
        yield
    except OSError as error:
        raise _unreadable(path, error) from error


def read_text(path: Path) -> str:
    """The content of a file or a pipe in UTF-8, without a byte order mark.

    Raises:
        DataError: as `read_bytes`, or a line is not UTF-8; says which.
    """
    return decoded(path, read_bytes(path)).removeprefix("\ufeff")


def decoded(path: Path, data: bytes, *, line: int = 1) -> str:
    """The text of a file's bytes in UTF-8, of which the first stand in this line.

    Raises:
        DataError: a line is not UTF-8; says which.
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line += data.count(b"\n", 0, error.start)
        raise DataError(f"{path}, line {line}: not UTF-8") from None


def _is_written_to(pipe: BufferedReader) -> bool:
    waiting = select.poll()
    waiting.register(pipe, select.POLLIN)
    return bool(waiting.poll(WRITER_S * 1000))


def _unreadable(path: Path, error: OSError | ValueError) -> DataError:
    return DataError(f"{quoted(path, PATH_CHARS)}: {getattr(error, 'strerror', None) or error}")
