"""AVIF files that cost a decoder more than they look like."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import partial

from PIL import Image

from worker.load.bombs.common import LARGE, MOST_BYTES, SMALL, Makers, noise, saved
from worker.load.bombs.png import directory


def _box(kind: bytes, *contents: bytes) -> bytes:
    content = b"".join(contents)
    return struct.pack(">I4s", 8 + len(content), kind) + content


def _full_box(kind: bytes, *contents: bytes, version: int = 0) -> bytes:
    return _box(kind, bytes([version, 0, 0, 0]), *contents)


def _avif(*properties: bytes, items: Sequence[tuple[bytes, bytes, Sequence[int]]], references: bytes = b"") -> bytes:
    """A file of `items`, the first of which is the image. An item has a kind, its content, and the numbers (from 1) of
    its properties. Items with equal content share it.
    """
    start = _box(b"ftyp", b"avif", bytes(4), b"avifmif1miaf")
    contents, offsets = b"", {content: 0 for _, content, _ in items}
    for content in offsets:
        offsets[content] = len(start) + 8 + len(contents)
        contents += content
    locations, infos, owners = [], [], []
    for number, (kind, content, owned) in enumerate(items, 1):
        locations.append(struct.pack(">HHHII", number, 0, 1, offsets[content], len(content)))
        infos.append(_full_box(b"infe", struct.pack(">HH4sx", number, 0, kind), version=2))
        owners.append(struct.pack(">HB", number, len(owned)) + bytes(owned))
    count = struct.pack(">H", len(items))
    return b"".join([
        start,
        _box(b"mdat", contents),
        _full_box(
            b"meta",
            _full_box(b"hdlr", bytes(4), b"pict", bytes(13)),
            _full_box(b"pitm", b"\0\1"),
            _full_box(b"iloc", b"\x44\0", count, *locations),
            _full_box(b"iinf", count, *infos),
            _full_box(b"iref", references),
            _box(b"iprp", _box(b"ipco", *properties), _full_box(b"ipma", bytes(2), count, *owners)),
        ),
    ])  # fmt: skip


def _coded(side: int) -> tuple[bytes, bytes, bytes]:
    """A flat image in AV1: its samples, and two properties, for their coding and their bits."""
    file = saved(Image.new("RGB", (side, side), "grey"), "AVIF", speed=10)

    def content(kind: bytes) -> bytes:
        at = file.index(kind) - 4
        return file[at + 8 : at + int.from_bytes(file[at : at + 4])]

    return content(b"mdat"), _box(b"av1C", content(b"av1C")), _box(b"pixi", content(b"pixi"))


def _extent(side: int) -> bytes:
    return _full_box(b"ispe", struct.pack(">II", side, side))


def avif_grid() -> bytes:
    """67 million pixels in 16,384 tiles, each of which gets a decoder of its own."""
    across = LARGE // SMALL
    samples, coding, depth = _coded(SMALL)
    grid = struct.pack(">BBBBHH", 0, 0, across - 1, across - 1, LARGE, LARGE)
    tiles = range(2, 2 + across**2)
    return _avif(
        _extent(LARGE), depth, coding, _extent(SMALL),
        items=[(b"grid", grid, [1, 2]), *[(b"av01", samples, [0x83, 4, 2])] * len(tiles)],
        references=_box(b"dimg", struct.pack(f">HH{len(tiles)}H", 1, len(tiles), *tiles)),
    )  # fmt: skip


def avif_directory() -> bytes:
    """A small image, rotated, with a million fractions in its EXIF."""
    samples, coding, depth = _coded(SMALL)
    return _avif(
        _extent(SMALL), depth, coding, _box(b"irot", b"\1"),
        items=[(b"av01", samples, [1, 2, 0x83, 0x84]), (b"Exif", bytes(4) + directory(1, 2**23), [])],
        references=_box(b"cdsc", struct.pack(">HHH", 2, 1, 1)),
    )  # fmt: skip


def _avif_items() -> bytes:
    """A box with the offsets of three million items: for each, a decoder searches all those before it."""
    count = (MOST_BYTES - 200) // 10
    offsets = b"".join(struct.pack(">I6x", number) for number in range(1, 1 + count))
    return _box(b"ftyp", b"avif", bytes(4), b"avifmif1miaf") + _full_box(
        b"meta",
        _full_box(b"hdlr", bytes(4), b"pict", bytes(13)),
        _full_box(b"pitm", b"\0\1"),
        _full_box(b"iloc", bytes(2), struct.pack(">I", count), offsets, version=2),
    )


AVIFS: Makers = {
    "avif-flat": lambda: saved(Image.new("RGB", (LARGE, LARGE), "grey"), "AVIF", speed=10, quality=10),
    "avif-noise": partial(noise, 6000, "AVIF", speed=10, quality=60),
    "avif-grid": avif_grid,
    "avif-boxes": lambda: saved(Image.new("RGB", (SMALL, SMALL)), "AVIF") + _box(b"free") * (MOST_BYTES // 8 - 200),
    "avif-items": _avif_items,
    "avif-directory": avif_directory,
}
