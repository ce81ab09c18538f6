"""Shares the decoding processes out among images, so that a slow image delays only other slow images.

bytes ─▶ quick: every image, small ones first, for the time that a sound image of its size takes ─▶ slices
           │ large, or not done by then
           ▼
         patient: few processes of lower priority; the image may take its whole deadline, and memory from the budget
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import random
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from m3agiqa.cutting import WHOLE_PIXELS, Cutter, SlicedImage
from m3agiqa.errors import Busy, ImageTooCostly
from worker.score.decoding.budget import Hold
from worker.score.decoding.child import Order
from worker.score.decoding.process import Decoder, Large, TookTooLong

#: Seconds of processor time after which an image counts as slow: for each image, and more for each megapixel and each
#: megabyte. A sound image takes a third of that.
QUICK_CPU_S, QUICK_MEGAPIXEL_S, QUICK_MEGABYTE_S = 0.05, 0.1, 0.01
#: Pixels of a small image at most (512 x 512 and a little more), and the seconds that it may take.
SMALL_PIXELS, SMALL_S = 300_000, 0.1
#: Niceness of a process that decodes an image which is not small, and of one that decodes a slow image.
_NICE, _VERY_NICE = 5, 10
#: Seconds that an image waits longer than another for each second that it may take longer.
_LATER = 20.0
#: Seconds that a slow image waits for room in the memory budget.
_ROOM_S = 5.0
#: Seconds until an image that found no process is taken again: at random between these two.
_AGAIN_S = (1.0, 4.0)
#: Slow images that are remembered.
_REMEMBERED = 10_000


class Decoders:
    """Decodes images for one model. Safe to share among threads.

    Args:
        count: quick processes; there are half as many patient ones, and at least one.
        cpu_s: seconds of processor time that one image may take.
        waiting: threads that may have an image with the patient processes at a time, decoding or waiting; twice as many
            may have one that is not small with the quick processes.
        max_pixels: pixels of an image at most.
        cutter: the model's cutter; None if the model looks at no image.
        expected: entered while a small image is decoded, as a batch may wait for it.
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
        """Decode an image; None if it is slow, so that `patient` must do it.

        Raises:
            ImageError: these bytes are no usable image.
            Busy: too many images that are not small wait already.
            OutOfMemory, DecoderLost: decoding failed for a reason that may pass.
        """
        digest = hashlib.sha256(data).digest()
        if digest in self._slow:  # it was put off, and must not take a quick process again
            return None
        try:
            found = self._quickly(data, SMALL_PIXELS, SMALL_PIXELS)
            if isinstance(found, Large) and found.pixels <= WHOLE_PIXELS:
                with _permit(self._larger, "other large images come first"):
                    found = self._quickly(data, WHOLE_PIXELS, found.pixels)
        except TookTooLong:
            pass
        else:
            if isinstance(found, SlicedImage):
                return found
        self._slow[digest] = None
        if len(self._slow) > _REMEMBERED:
            self._slow.popitem(last=False)
        return None

    def _quickly(self, data: bytes, most_pixels: int, pixels: int) -> SlicedImage | Large:
        expected_s = QUICK_CPU_S + QUICK_MEGAPIXEL_S * pixels / 1e6 + QUICK_MEGABYTE_S * len(data) / 1e6
        small = expected_s <= SMALL_S
        nice = 0 if small else _NICE
        order = self._order(data, QUICK_CPU_S, most_pixels, nice, QUICK_MEGAPIXEL_S, QUICK_MEGABYTE_S)
        with self._expected if small else nullcontext(), self._quick.decoder(expected_s) as decoder:
            return decoder.decode(order, data)

    def patient(self, data: bytes, hold: Hold) -> SlicedImage:
        """Decode a slow image; `hold` takes room in the memory budget for the file and for what decoding needs.

        Raises:
            Busy: too many slow images wait already, or the memory budget has no room.
            ImageTooCostly: the image needs more than `cpu_s` seconds.
            ImageError, OutOfMemory, DecoderLost: as `quick` raises them.
        """
        try:
            with (
                _permit(self._waiting, "other slow images come first"),
                self._patient.decoder() as decoder,
            ):
                found = decoder.decode(self._order(data, self._cpu_s, 0, _VERY_NICE), data)
                if isinstance(found, Large):
                    hold.resize(len(data) + found.working_bytes, _ROOM_S)
                    found = decoder.decode(self._order(data, self._cpu_s, self._max_pixels, _VERY_NICE), data)
        except TookTooLong:
            raise ImageTooCostly(f"decoding it takes more than {self._cpu_s:g} s of processor time") from None
        assert isinstance(found, SlicedImage), "nothing is too large for a patient decoder"
        return found

    def _order(
        self, data: bytes, cpu_s: float, most_pixels: int, nice: int, megapixel_s: float = 0.0, megabyte_s: float = 0.0
    ) -> Order:
        cutter = self._cutter
        asked = None if cutter is None else (cutter.slicing.patch, cutter.slicing.scale, cutter.max_slices)
        return Order(len(data), self._max_pixels, most_pixels, cpu_s, megapixel_s, megabyte_s, nice, asked)


@contextmanager
def _permit(permits: threading.Semaphore, why_not: str) -> Iterator[None]:
    if not permits.acquire(blocking=False):
        raise Busy(why_not, random.uniform(*_AGAIN_S))
    try:
        yield
    finally:
        permits.release()


class _Lane:
    """Processes of one kind, each for one image at a time.

    An image waits the longer the more time it may take, so that small ones go first, but not for ever. An image that is
    not small never gets the last free process.
    """

    def __init__(self, count: int) -> None:
        self._all = [Decoder() for _ in range(count)]
        self._free = list(self._all)
        #: Images that wait: each one's time on the monotonic clock, its number, and how many processes must be free.
        self._waiting: list[tuple[float, int, int]] = []
        self._numbers = itertools.count()
        self._changed = threading.Condition()

    @contextmanager
    def decoder(self, expected_s: float = 0.0) -> Iterator[Decoder]:
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
