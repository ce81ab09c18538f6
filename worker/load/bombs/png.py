"""PNG files that cost a decoder more than they look like."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Iterable
from functools import partial

from m3agiqa.containers.png import SIGNATURE, chunk
from m3agiqa.icc import make_profile
from worker.load.bombs.common import LARGE, LIGHT, MOST_BYTES, SMALL, Makers

#: Colour types, and the number of channels of each.
_GREY, _RGB, _PALETTE, _GREY_ALPHA, _RGBA = 0, 2, 3, 4, 6
_CHANNELS = {_GREY: 1, _RGB: 3, _PALETTE: 1, _GREY_ALPHA: 2, _RGBA: 4}


def _deflated(block: bytes, times: int) -> bytes:
    """`times` copies of `block` as a zlib stream, made quickly: the block is packed once, and its packed bytes
    repeated.
    """
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(block) + packer.flush(zlib.Z_FULL_FLUSH)
    checksum = 1
    for _ in range(times):
        checksum = zlib.adler32(block, checksum)
    return b"\x78\xda" + packed * times + b"\x03\x00" + struct.pack(">I", checksum)


def _png(
    side: int,
    colour: int,
    depth: int = 8,
    *,
    interlaced: bool = False,
    pixels: bytes | None = None,
    before: Iterable[bytes] = (),
    behind: Iterable[bytes] = (),
) -> bytes:
    """A square image with more chunks before and behind its pixels; it is flat if `pixels` is None."""
    if pixels is None:
        row = bytes(1 + _CHANNELS[colour] * depth * side // 8)
        # An interlaced image has more and shorter rows, which are zeros too.
        pixels = _deflated(row * 4, side // 4 + interlaced)
    header = struct.pack(">IIBBBBB", side, side, depth, colour, 0, 0, interlaced)
    idat, end = chunk(b"IDAT", pixels), chunk(b"IEND", b"")
    return b"".join([SIGNATURE, chunk(b"IHDR", header), *before, idat, *behind, end])


def _png_chunks(kind: bytes) -> bytes:
    empty = chunk(kind, b"")
    return _png(SMALL, _RGB, before=[empty * (MOST_BYTES // len(empty) - 100)])


def _png_texts() -> bytes:
    text = chunk(b"zTXt", b"k\0\0" + _deflated(b"A" * 2**20, 1))
    return _png(SMALL, _RGB, before=[text * 20_000])


def _profile(size: int) -> bytes:
    """A colour profile of about `size` bytes, with a table from RGB to Lab (ICC.1:2010, 10.10, lut16)."""
    steps = int((size / 6) ** (1 / 3))
    table = struct.pack(">4s4xBBBx9iHH", b"mft2", 3, 3, steps, *[65536, 0, 0, 0, 65536, 0, 0, 0, 65536], 2, 2)
    ramp = struct.pack(">2H", 0, 65535)
    table += ramp * 3 + random.Random(1).randbytes(6 * steps**3) + ramp * 3
    white = struct.pack(">4s4x3i", b"XYZ ", 63190, 65536, 54061)
    return make_profile(b"RGB ", {b"wtpt": white, b"A2B0": table}, pcs=b"Lab ", version=2)


def _png_colours(side: int) -> bytes:
    """An image whose pixels need random entries of a large table of colours."""
    rows = (b"\0" + random.Random(2).randbytes(3 * side)) * 64
    profile = chunk(b"iCCP", b"n\0\0" + zlib.compress(_profile(4 * 2**20 - 4096), 1))
    return _png(side, _RGB, pixels=_deflated(rows, side // 64), before=[profile])


def png_light() -> bytes:
    """An image that looks cheap, with everything that makes a PNG slow: many chunks, 16 bits, a filter that predicts
    from three pixels, a transparent colour, and a large table of colours.
    """
    before = [
        chunk(b"iCCP", b"n\0\0" + zlib.compress(_profile(4 * 2**20 - 4096), 1)),
        chunk(b"tRNS", bytes(6)),
        chunk(b"teXt", b"") * 190_000,
    ]
    row = b"\4" + random.Random(2).randbytes(6 * LIGHT)
    return _png(LIGHT, _RGB, 16, pixels=_deflated(row * 50, LIGHT // 50), before=before)


def png_frames() -> bytes:
    """A small image with an animation, whose frames inflate to 200 MB each."""
    control = chunk(b"acTL", struct.pack(">II", 100, 0))

    def frame(number: int) -> bytes:
        numbers = number, SMALL, SMALL, 0, 0, 1, 10, 0, 0
        return chunk(b"fcTL", struct.pack(">IIIIIHHBB", *numbers))

    packed = _deflated(bytes(2**20), 200)
    hidden = [
        part
        for number in range(1, 100)
        for part in (frame(2 * number - 1), chunk(b"fdAT", struct.pack(">I", 2 * number) + packed))
    ]
    return _png(SMALL, _RGB, before=[control, frame(0)], behind=hidden)


def directory(tags: int, size: int) -> bytes:
    """A TIFF structure of `tags` tags, each an array of fractions in the same `size` bytes."""
    entries = b"".join(struct.pack("<HHII", 0xFFFF - tag, 5, size // 8, 8) for tag in range(tags))
    return (b"II*\0" + struct.pack("<IH", 8, tags) + entries).ljust(size + 16, b"\0")


PNGS: Makers = {
    "png-chunks": partial(_png_chunks, b"teXt"),
    "png-idats": partial(_png_chunks, b"IDAT"),
    "png-texts": _png_texts,
    "png-profile": lambda: _png(SMALL, _RGB, before=[chunk(b"iCCP", b"n\0\0" + _deflated(bytes(2**20), 900))]),
    "png-directory": lambda: _png(SMALL, _RGB, before=[chunk(b"eXIf", directory(60_000, 2**23))]),
    "png-rgba": partial(_png, LARGE, _RGBA),
    "png-rgb": partial(_png, LARGE, _RGB),
    "png-la": partial(_png, LARGE, _GREY_ALPHA),
    "png-grey16": partial(_png, LARGE, _GREY, 16),
    "png-palette": lambda: _png(LARGE, _PALETTE, before=[chunk(b"PLTE", bytes(3))]),
    "png-interlaced": partial(_png, LARGE, _RGBA, interlaced=True),
    "png-transparent": lambda: _png(4096, _RGB, 16, before=[chunk(b"tRNS", bytes(6))]),
    "png-colours": lambda: _png_colours(LARGE),
    "png-frames": png_frames,
    "png-light": png_light,
}
