"""Keeps the processes that decode, and ends those that take too long.

    bytes ─▶ quick: all images, small ones first, as long as sound ones of their size take ─▶ slices
               │ large, or not done by then
               ▼
             patient: few processes, of lower priority, with the whole deadline and memory taken from the budget

So an image that takes long waits for others of its kind, and no other waits for it.
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
#: Seconds that an image waits for its bytes in memory.
_ROOM_S = 5.0
#: Seconds until an image for which no patient process is free is taken again, at random between.
_AGAIN_S = (1.0, 4.0)
#: Images that are remembered for having taken long.
_REMEMBERED = 10_000


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
            if isinstance(found, Large) and found.pixels <= WHOLE_PIXELS:
                with _one_of(self._larger, "others come first"):
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
        self._all = [Decoder() for _ in range(count)]
        self._free = list(self._all)
        #: Images that wait: when each has its turn, its number, and how many processes must be free.
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
