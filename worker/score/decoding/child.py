"""The decoding process: `python -m worker.score.decoding.child SOCKET MEMORY`, which `process` starts.

It forks for each image, which takes milliseconds where a new start takes a third of a second; the fork's memory goes
when it ends.

SOCKET and MEMORY are file descriptors. Orders and answers are JSON on the socket; the image's bytes, and then its
slices, lie in the shared memory. The worker reads nothing else from here and checks all of it: an image may have taken
over its decoder.
"""

from __future__ import annotations

import json
import mmap
import os
import resource
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from PIL import AvifImagePlugin, Image

from m3agiqa.contract import Failure
from m3agiqa.cutting import Cutter, SlicedImage
from m3agiqa.errors import ImageUnreadable, M3AGIQAError
from m3agiqa.images import decode, read_header
from m3agiqa.memory import data_bytes
from m3agiqa.model.slicing import Slicing

#: Bytes beyond what the header says of an image: reading it takes some, and memory is handed out in large pieces.
_MARGIN_BYTES = 128 * 2**20


@dataclass(frozen=True)
class Order:
    """What the worker asks a decoder to do."""

    #: Size of the file in the shared memory, bytes.
    size_bytes: int
    max_pixels: int
    #: An image with more pixels is not decoded: the answer says how many it has, and how much memory it would take.
    most_pixels: int
    #: Seconds of processor time that decoding may take, and more for each megapixel and each megabyte of the image.
    cpu_s: float
    megapixel_s: float
    megabyte_s: float
    #: Niceness of the fork that decodes: the higher, the more other work goes first.
    niceness: int
    #: Patch, scale and numbers of slices of the model's cutter; None cuts nothing.
    cutter: tuple[int, int, tuple[int, ...]] | None

    def to_json(self) -> bytes:
        return json.dumps(vars(self)).encode()


def main(arguments: list[str]) -> None:
    """Serve orders until the worker closes the socket."""
    socket, memory = (int(argument) for argument in arguments)
    Image.init()
    # One thread: the limit counts the processor time of all threads, and other cores have other images.
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    Image.MAX_IMAGE_PIXELS = None  # read_header checks sizes
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    connection = Connection(socket)
    connection.send_bytes(b"ready")
    with suppress(EOFError, OSError):
        while True:
            order = Order(**json.loads(connection.recv_bytes()))
            if (decoder := os.fork()) == 0:
                os.nice(order.niceness)
                connection.send_bytes(json.dumps(_answer(order, memory)).encode())
                os._exit(0)
            if status := os.waitpid(decoder, 0)[1]:
                connection.send_bytes(json.dumps({"ended": os.waitstatus_to_exitcode(status)}).encode())


def _answer(order: Order, memory: int) -> dict[str, Any]:
    working_bytes = 0
    try:
        _limit_seconds(order.cpu_s + order.megabyte_s * order.size_bytes / 1e6)
        _limit_memory(2 * order.size_bytes)
        data = os.pread(memory, order.size_bytes, 0)
        os.ftruncate(memory, 0)
        undecoded = read_header(data, max_pixels=order.max_pixels)
        if undecoded.pixels > order.most_pixels:
            return {"large": undecoded.working_bytes, "pixels": undecoded.pixels}
        working_bytes = undecoded.working_bytes
        _limit_seconds(order.megapixel_s * undecoded.pixels / 1e6, more=True)
        _limit_memory(2 * (order.size_bytes + working_bytes))
        image = decode(undecoded)
        if order.cutter is None:
            return {"info": image.info.model_dump()}
        patch, scale, most = order.cutter
        return _written(Cutter(Slicing(patch, scale), tuple(most)).cut(image), memory)
    except ImageUnreadable as error:
        return _failed(error if _has_room(working_bytes + _MARGIN_BYTES // 4) else MemoryError())
    except (M3AGIQAError, MemoryError) as error:
        return _failed(error)


def _failed(error: Exception) -> dict[str, Any]:
    return {"failure": Failure.from_error(error).model_dump()}


def _has_room(size_bytes: int) -> bool:
    """Whether this process could allocate that much now. Decoders that lack memory call the image broken."""
    try:
        mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except OSError:
        return False
    return True


def _limit_seconds(cpu_s: float, *, more: bool = False) -> None:
    """Have the kernel end this process after so much processor time, even in the middle of a decoder; `more` adds to
    what is left.
    """
    left_s = signal.getitimer(signal.ITIMER_PROF)[0] if more else 0.0
    signal.setitimer(signal.ITIMER_PROF, left_s + cpu_s)


def _limit_memory(more_bytes: int) -> None:
    """Limit this process to `more_bytes` more than it has."""
    hard = resource.RLIM_INFINITY
    resource.setrlimit(resource.RLIMIT_DATA, (data_bytes() + more_bytes + _MARGIN_BYTES, hard))


def _written(cut: SlicedImage, memory: int) -> dict[str, Any]:
    """Write the slices one after the other, then the image they were cut from. Returns the answer, with their sizes."""
    at = 0
    for slices in cut.slices.values():
        for patch in slices.patches:
            at += _write(memory, patch.data.cast("B"), at)
    _write(memory, memoryview(cut.raw), at)
    return {
        "info": cut.info.model_dump(),
        "slices": [[grid.columns, grid.rows, slices.sizes] for grid, slices in cut.slices.items()],
        "raw_size": cut.raw_size,
    }


def _write(memory: int, data: memoryview, at: int) -> int:
    written = 0
    while written < len(data):
        written += os.pwrite(memory, data[written:], at + written)
    return len(data)


if __name__ == "__main__":
    main(sys.argv[1:])
