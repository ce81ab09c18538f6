"""Files that commands read whole."""

from __future__ import annotations

import os
import select
import stat
from io import BufferedReader
from pathlib import Path

from m3agiqa.errors import DataError
from m3agiqa.quoting import PATH_CHARS, quoted

#: Seconds that a pipe may take until somebody writes to it.
WRITER_S = 5.0


def opened(path: Path) -> BufferedReader:
    """A file or a pipe, opened for reading.

    Raises:
        DataError: missing, not readable, a folder or a device, or a pipe that nobody writes to.
    """
    try:
        # Without waiting: a pipe is opened whether somebody writes to it or not.
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
    # A device may have no end.
    kind = "a pipe that nobody writes to" if stat.S_ISFIFO(mode) else "a device, and not a file"
    raise DataError(f"{quoted(path, PATH_CHARS)}: {kind}")


def read_bytes(path: Path) -> bytes:
    """What a file or a pipe holds.

    Raises:
        DataError: as `opened`.
    """
    with opened(path) as file:
        try:
            return file.read()
        except OSError as error:
            raise _unreadable(path, error) from error


def read_text(path: Path) -> str:
    """What a file or a pipe of UTF-8 holds, without a byte order mark.

    Raises:
        DataError: as `read_bytes`, or it is no UTF-8; says where.
    """
    return decoded(path, read_bytes(path)).removeprefix("\ufeff")


def decoded(path: Path, data: bytes) -> str:
    """The text of a file's UTF-8.

    Raises:
        DataError: it is none; says where.
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}, line {line}: not UTF-8") from None


def _is_written_to(pipe: BufferedReader) -> bool:
    waiting = select.poll()
    waiting.register(pipe, select.POLLIN)
    return bool(waiting.poll(WRITER_S * 1000))


def _unreadable(path: Path, error: OSError | ValueError) -> DataError:
    return DataError(f"{quoted(path, PATH_CHARS)}: {getattr(error, 'strerror', None) or error}")
