"""A decoding process as the worker sees it: it starts it, asks it, checks its answer, and ends it.

Each process has a socket of its own, where the pools of Python share theirs: one that is killed in the middle of an
answer leaves no other waiting for the rest.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from socket import socketpair
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from m3agiqa.contract import Failure, ImageInfo
from m3agiqa.cutting import WHOLE_PIXELS, SlicedImage
from m3agiqa.errors import (
    DecoderLost,
    ImageError,
    M3AGIQAError,
    OutOfMemory,
    tree,
)
from m3agiqa.model.slicing import MAX_PATCHES, Grid, Slices
from worker.score.decoding.child import Order

#: Seconds of the clock after which a process that does not answer counts as hanging: some, and some more for each
#: second of processor time that it may take, as a busy machine gives it less than one a second.
_HANGS_S, _PATIENCE = 10.0, 6.0
#: Seconds that a process may take to start.
_START_S = 60.0
#: Bytes of an answer at most.
_MAX_ANSWER = 1 << 16
#: Module that runs in the process.
_MODULE = "worker.score.decoding.child"

#: Variables that the process gets from the worker's environment, which holds secrets.
_PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "HOME", "TMPDIR")
#: What a decoding process may report: what may be wrong with an image, and too little memory.
_REPORTED: tuple[type[M3AGIQAError], ...] = (*tree(ImageError), OutOfMemory)
_FAILURES = {failure.code: failure for failure in _REPORTED}


class _Answer(BaseModel):
    """What a decoding process may answer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    info: ImageInfo | None = None
    #: Columns and rows of a grid, and height and width of each slice in patches.
    slices: tuple[tuple[int, int, tuple[tuple[int, int], ...]], ...] = ()
    raw_size: tuple[int, int] = (0, 0)
    large: int | None = Field(default=None, gt=0)
    pixels: int = Field(default=0, ge=0)
    failure: Failure | None = None
    #: Exit code of a fork that ended without an answer; below zero, the number of the signal that ended it.
    ended: int | None = None


class TookTooLong(Exception):
    """The image used up its seconds of processor time."""


@dataclass(frozen=True)
class Large:
    """An image that was not decoded, because it has more pixels than the order allows."""

    pixels: int
    working_bytes: int


class Decoder:
    """One process: started when it is first needed, and started again when it has ended."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._memory = -1
        self._connection: Connection | None = None

    def decode(self, order: Order, data: bytes) -> SlicedImage | Large:
        """Have an image decoded. Returns it, or its size if it has more pixels than the order allows.

        Raises:
            TookTooLong: it needs more seconds than the order allows.
            ImageError, OutOfMemory, DecoderLost: as `Decoders.quick` raises them.
        """
        try:
            if self._process is None:
                self._start()
            os.ftruncate(self._memory, 0)
            _write(self._memory, data)
            found = self._ask(order)
            image = None if found.info is None else self._image(found, order)
        except OSError as error:
            self.end()
            raise OutOfMemory(f"no process to decode with ({error.strerror})") from None
        except (ValidationError, ValueError) as error:
            self.end()
            raise DecoderLost(f"its decoder answered what it may not ({type(error).__name__})") from None
        except (TookTooLong, DecoderLost, OutOfMemory):
            self.end()
            raise
        if found.ended is not None:
            raise _why(found.ended)
        if found.failure is not None:
            raise _FAILURES.get(found.failure.code, DecoderLost)(found.failure.message)
        return image or Large(found.pixels, found.large or 0)

    def end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(ProcessLookupError):  # the whole group: its fork decodes
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert self._connection is not None
        self._connection.close()
        os.close(self._memory)

    def _start(self) -> None:
        ours, theirs = socketpair()
        memory = _shared_memory()
        try:
            process = subprocess.Popen(
                [
                    sys.executable, "-P", "-m", _MODULE,
                    str(theirs.fileno()), str(memory),
                ],
                env=_environment(os.environ),
                pass_fds=(theirs.fileno(), memory),
                stdin=subprocess.DEVNULL,
                # A Ctrl-C in the terminal is the worker's to answer.
                start_new_session=True,
            )  # fmt: skip
        except OSError:
            ours.close()
            os.close(memory)
            raise
        finally:
            theirs.close()
        self._process, self._memory, self._connection = process, memory, Connection(ours.detach())
        if not self._connection.poll(_START_S):
            raise DecoderLost("its decoder did not start")
        self._received()

    def _ask(self, order: Order) -> _Answer:
        assert self._connection is not None
        try:
            self._connection.send_bytes(order.to_json())
        except OSError:
            self._ended()
        if not self._connection.poll(_HANGS_S + _PATIENCE * order.cpu_s):
            raise DecoderLost("its decoder did not answer")
        return _Answer.model_validate_json(self._received())

    def _received(self) -> bytes:
        assert self._connection is not None
        try:
            return self._connection.recv_bytes(_MAX_ANSWER)
        except (EOFError, ConnectionError):
            self._ended()
            raise AssertionError("_ended always raises") from None
        except OSError:
            raise ValueError("longer than an answer") from None

    def _ended(self) -> None:
        assert self._process is not None
        raise _why(self._process.wait(_START_S))

    def _image(self, found: _Answer, order: Order) -> SlicedImage:
        """Copy the image out of the shared memory, which its decoder could change at any time."""
        assert found.info is not None
        slices: dict[Grid, Slices] = {}
        at = 0
        patch = order.cutter[0] if order.cutter else 0
        for columns, rows, sizes in found.slices:
            grid = Grid(columns, rows)
            if len(sizes) != 1 + grid.slices or not all(0 < height * width <= MAX_PATCHES for height, width in sizes):
                raise ValueError("slices that do not fit their grid")
            patches = []
            for height, width in sizes:
                pixels = _read(self._memory, 3 * patch * patch * height * width, at)
                at += pixels.nbytes
                patches.append(pixels.reshape(3, patch, -1))
            slices[grid] = Slices(grid, tuple(patches), sizes)
        width, height = found.raw_size
        if not 0 <= width * height <= WHOLE_PIXELS:
            raise ValueError("an image larger than any that is kept")
        raw = _read(self._memory, 3 * width * height, at)
        return SlicedImage(found.info, slices, raw.data, found.raw_size)


def _why(code: int) -> Exception:
    """The error that stands for a process that ended with this code."""
    if code == -signal.SIGPROF:
        return TookTooLong()
    if code == -signal.SIGKILL:
        return OutOfMemory("its decoder was killed, most likely for want of memory")
    return DecoderLost(f"its decoder ended with {code}")


def _environment(ours: Mapping[str, str]) -> dict[str, str]:
    passed = {name: ours[name] for name in _PASSED_ON if name in ours}
    # The worker's own module paths, whatever it was started with.
    return {
        **passed,
        "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path),
        "OPENBLAS_NUM_THREADS": "1",
    }


def _shared_memory() -> int:
    """A file in memory, but not in /dev/shm, which containers limit to 64 MB."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("m3agiqa-decoder", 0)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _write(memory: int, data: bytes) -> None:
    view, written = memoryview(data), 0
    while written < len(view):
        written += os.pwrite(memory, view[written:], written)


def _read(memory: int, size: int, at: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    pixels = np.empty(size, np.uint8)
    view, read = memoryview(pixels.data), 0
    while read < size:
        count = os.preadv(memory, [view[read:]], at + read)
        if not count:
            raise ValueError("less than it announced")
        read += count
    return pixels
