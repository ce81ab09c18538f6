"""Keeps the processes that decode, and ends those that take too long.

    bytes ─▶ quick: all images, small ones first, as long as sound ones of their size take ─▶ slices
               │ large, or not done by then
               ▼
             patient: few processes, of lower priority, with the whole deadline and memory taken from the budget

So an image that takes long waits for others of its kind, and no other waits for it. A process of its own for each
image at work, rather than a pool that shares its pipes among processes: one that is killed in the middle of an answer
leaves nobody else waiting for the rest of it.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from socket import socketpair
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from m3agiqa.contract import Failure, ImageInfo
from m3agiqa.cutting import WHOLE_PIXELS, Cutter, SlicedImage
from m3agiqa.errors import (
    Busy,
    DecoderLost,
    ImageTooCostly,
    ImageTooLarge,
    ImageUnreadable,
    M3AGIQAError,
    OutOfMemory,
)
from m3agiqa.model.slicing import MAX_PATCHES, Grid, Slices
from worker.score.decoding.budget import Hold
from worker.score.decoding.child import Order

#: Seconds of processor time after which an image is one of those that take long: some for each, more for each
#: megapixel and each megabyte. A sound one takes a third of that.
QUICK_CPU_S, QUICK_MEGAPIXEL_S, QUICK_MEGABYTE_S = 0.05, 0.1, 0.01
#: Pixels of a small image (512 x 512 and a little), and the seconds that it may take at the most.
SMALL_PIXELS, SMALL_S = 300_000, 0.1
#: Niceness of the processes of images that are not small, and of those that take long: how much more patient they are
#: with others' work.
_NICE, _VERY_NICE = 5, 10
#: How much later than another one an image has its turn, for each second that it may take longer.
_LATER = 20.0
#: Seconds by the clock until a process that does not answer counts as hanging, and so many more for each of processor
#: time: a busy machine gives a process less of it.
_HANGS_S, _PATIENCE = 10.0, 6.0
#: Seconds that a process may take to start.
_START_S = 60.0
#: Seconds that an image waits for its bytes in memory.
_ROOM_S = 5.0
#: Seconds until an image for which no patient process is free is taken again, at random between.
_AGAIN_S = (1.0, 4.0)
#: Images that are remembered for having taken long.
_REMEMBERED = 10_000
#: Bytes of an answer at most.
_MAX_ANSWER = 1 << 16
#: What runs in a decoder.
_MODULE = "worker.score.decoding.child"

#: All that a decoder sees of the worker's environment, which holds secrets.
_PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "HOME", "TMPDIR")
_FAILURES: dict[str, type[M3AGIQAError]] = {
    failure.code: failure for failure in (ImageUnreadable, ImageTooLarge, ImageTooCostly, OutOfMemory)
}


class _Answer(BaseModel):
    """What a decoder may say."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    info: ImageInfo | None = None
    #: Columns and rows of a grid, and height and width of each slice in patches.
    slices: tuple[tuple[int, int, tuple[tuple[int, int], ...]], ...] = ()
    raw_size: tuple[int, int] = (0, 0)
    large: int | None = Field(default=None, gt=0)
    pixels: int = Field(default=0, ge=0)
    failure: Failure | None = None
    #: Exit code of the process that decoded, the signal's number below zero, where it ended without an answer.
    ended: int | None = None


class Decoders:
    """Decodes images for one model. Safe to share among threads.

    Args:
        count: processes for all images; half as many, one at least, are kept for those that take long.
        cpu_s: seconds of processor time that one image may take.
        waiting: threads that may wait for a patient process at a time, those it works for counted; twice as many may
            wait with images that are not small.
        max_pixels: of an image, at most.
        cutter: the model's; None if it looks at no image.
        expected: entered while a small image is about to come, which a batch may wait for.
    """

    def __init__(
        self,
        count: int,
        *,
        cpu_s: float,
        waiting: int,
        max_pixels: int,
        cutter: Cutter | None,
        expected: AbstractContextManager[None] | None = None,
    ) -> None:
        self._cpu_s = cpu_s
        self._max_pixels = max_pixels
        self._cutter = cutter
        self._expected = expected or nullcontext()
        self._quick = _Lane(count)
        self._patient = _Lane(max(1, count // 2))
        self._waiting = threading.Semaphore(waiting)
        self._larger = threading.Semaphore(2 * waiting)
        self._slow: OrderedDict[bytes, None] = OrderedDict()

    def close(self) -> None:
        """End all processes."""
        self._quick.close()
        self._patient.close()

    def quick(self, data: bytes) -> SlicedImage | None:
        """Decode an image unless it takes long; then None.

        Raises:
            ImageError: no usable image.
            Busy: too many wait already that take longer than small ones.
            OutOfMemory, DecoderLost: it was not to be decoded now.
        """
        digest = hashlib.sha256(data).digest()
        if digest in self._slow:  # it was put off, and is not to take its time again
            return None
        try:
            found = self._quickly(data, SMALL_PIXELS, SMALL_PIXELS)
            if isinstance(found, _Large) and found.pixels <= WHOLE_PIXELS:
                with _one_of(self._larger, "others come first"):
                    found = self._quickly(data, WHOLE_PIXELS, found.pixels)
        except _TookTooLong:
            pass
        else:
            if isinstance(found, SlicedImage):
                return found
        self._slow[digest] = None
        if len(self._slow) > _REMEMBERED:
            self._slow.popitem(last=False)
        return None

    def _quickly(self, data: bytes, most_pixels: int, pixels: int) -> SlicedImage | _Large:
        expected_s = QUICK_CPU_S + QUICK_MEGAPIXEL_S * pixels / 1e6 + QUICK_MEGABYTE_S * len(data) / 1e6
        small = expected_s <= SMALL_S
        nice = 0 if small else _NICE
        order = self._order(data, QUICK_CPU_S, most_pixels, nice, QUICK_MEGAPIXEL_S, QUICK_MEGABYTE_S)
        with self._expected if small else nullcontext(), self._quick.decoder(expected_s) as decoder:
            return decoder.decode(order, data)

    def patient(self, data: bytes, hold: Hold) -> SlicedImage:
        """Decode an image that takes long; what it takes meanwhile, and what is kept of it, is taken from `hold`.

        Raises:
            Busy: too many wait already, or there is no room.
            ImageTooCostly: it takes more than its seconds.
            ImageError, OutOfMemory, DecoderLost: as `quick`.
        """
        try:
            with (
                _one_of(self._waiting, "others that take long to decode come first"),
                self._patient.decoder() as decoder,
            ):
                found = decoder.decode(self._order(data, self._cpu_s, 0, _VERY_NICE), data)
                if isinstance(found, _Large):
                    hold.resize(len(data) + found.working_bytes, _ROOM_S)
                    found = decoder.decode(self._order(data, self._cpu_s, self._max_pixels, _VERY_NICE), data)
        except _TookTooLong:
            raise ImageTooCostly(f"decoding it takes more than {self._cpu_s:g} s of processor time") from None
        assert isinstance(found, SlicedImage), "nothing is too large for a patient decoder"
        return found

    def _order(
        self, data: bytes, cpu_s: float, most_pixels: int, nice: int, megapixel_s: float = 0.0, megabyte_s: float = 0.0
    ) -> Order:
        cutter = self._cutter
        asked = None if cutter is None else (cutter.slicing.patch, cutter.slicing.scale, cutter.max_slices)
        return Order(len(data), self._max_pixels, most_pixels, cpu_s, megapixel_s, megabyte_s, nice, asked)


class _TookTooLong(Exception):
    """The seconds of processor time are used up."""


@dataclass(frozen=True)
class _Large:
    """An image that was not decoded, as it has more pixels than asked for."""

    pixels: int
    working_bytes: int


@contextmanager
def _one_of(permits: threading.Semaphore, why_not: str) -> Iterator[None]:
    if not permits.acquire(blocking=False):
        raise Busy(why_not, random.uniform(*_AGAIN_S))
    try:
        yield
    finally:
        permits.release()


class _Lane:
    """Processes of one kind, each for one image at a time.

    An image has its turn the later the longer it may take, yet no later than so many times that after it came. Those
    that take longer than small ones never take the last process that is free.
    """

    def __init__(self, count: int) -> None:
        self._all = [_Decoder() for _ in range(count)]
        self._free = list(self._all)
        #: Images that wait: when each has its turn, its number, and how many processes must be free.
        self._waiting: list[tuple[float, int, int]] = []
        self._numbers = itertools.count()
        self._changed = threading.Condition()

    @contextmanager
    def decoder(self, expected_s: float = 0.0) -> Iterator[_Decoder]:
        needed = min(len(self._all), 2 if expected_s > SMALL_S else 1)
        turn = (time.monotonic() + _LATER * expected_s, next(self._numbers), needed)
        with self._changed:
            bisect.insort(self._waiting, turn)
            self._changed.wait_for(lambda: self._next() == turn)
            self._waiting.remove(turn)
            decoder = self._free.pop()
            self._changed.notify_all()
        try:
            yield decoder
        finally:
            with self._changed:
                self._free.append(decoder)
                self._changed.notify_all()

    def _next(self) -> tuple[float, int, int] | None:
        return next((turn for turn in self._waiting if turn[2] <= len(self._free)), None)

    def close(self) -> None:
        for decoder in self._all:
            decoder.end()


class _Decoder:
    """One process, started when it is first needed and anew after each end."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._memory = -1
        self._connection: Connection | None = None

    def decode(self, order: Order, data: bytes) -> SlicedImage | _Large:
        """The image, or what its header says if it is larger than the order has decoded.

        Raises:
            _TookTooLong: the order's seconds are over.
            ImageError, OutOfMemory, DecoderLost: as `Decoders.quick`.
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
        except (_TookTooLong, DecoderLost, OutOfMemory):
            self.end()
            raise
        if found.ended is not None:
            raise _why(found.ended)
        if found.failure is not None:
            raise _FAILURES.get(found.failure.code, DecoderLost)(found.failure.message)
        return image or _Large(found.pixels, found.large or 0)

    def end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(ProcessLookupError):  # its group, for the one it decodes with
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
            raise AssertionError("a process that ended is told apart") from None
        except OSError:
            raise ValueError("longer than an answer") from None

    def _ended(self) -> None:
        assert self._process is not None
        raise _why(self._process.wait(_START_S))

    def _image(self, found: _Answer, order: Order) -> SlicedImage:
        """The image, copied out of the shared memory, which the decoder may change."""
        assert found.info is not None
        slices: dict[Grid, Slices] = {}
        at = 0
        patch = order.cutter[0] if order.cutter else 0
        for columns, rows, sizes in found.slices:
            grid = Grid(columns, rows)
            if len(sizes) != 1 + grid.slices or not all(0 < height * width <= MAX_PATCHES for height, width in sizes):
                raise ValueError("slices that are none")
            patches = []
            for height, width in sizes:
                pixels = _read(self._memory, 3 * patch * patch * height * width, at)
                at += pixels.nbytes
                patches.append(pixels.reshape(3, patch, -1))
            slices[grid] = Slices(grid, tuple(patches), sizes)
        width, height = found.raw_size
        if not 0 <= width * height <= WHOLE_PIXELS:
            raise ValueError("larger than what is kept")
        raw = _read(self._memory, 3 * width * height, at)
        return SlicedImage(found.info, slices, raw.data, found.raw_size)


def _why(code: int) -> Exception:
    """Why a process ended with this code."""
    if code == -signal.SIGPROF:
        return _TookTooLong()
    if code == -signal.SIGKILL:
        return OutOfMemory("its decoder was killed, most likely for want of memory")
    return DecoderLost(f"its decoder ended with {code}")


def _environment(ours: Mapping[str, str]) -> dict[str, str]:
    passed = {name: ours[name] for name in _PASSED_ON if name in ours}
    # The paths this process found its modules in, whatever it was started with.
    return {
        **passed,
        "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path),
        "OPENBLAS_NUM_THREADS": "1",
    }


def _shared_memory() -> int:
    """A file in memory that is not /dev/shm's, which containers keep to 64 MB."""
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
            raise ValueError("less than it says")
        read += count
    return pixels
