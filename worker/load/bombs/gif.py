"""GIF files that cost a decoder more than they look like."""

from __future__ import annotations

import struct

from worker.load.bombs.bits import Bits
from worker.load.bombs.common import LARGE, MOST_BYTES, SMALL, Makers


def _gif(side: int, codes: bytes, *, bits: int = 8, before: bytes = b"", times: int = 1) -> bytes:
    """A square image from LZW codes that begin with `bits` bits, in blocks of 255 bytes; `times` such frames."""
    screen = b"GIF89a" + struct.pack("<HHBBB", side, side, 0x80, 0, 0) + bytes(6)
    frame = struct.pack("<BHHHHBB", 0x2C, 0, 0, side, side, 0, bits) + codes + b"\0"
    return screen + before + frame * times + b";"


def _blocks(data: bytes) -> bytes:
    parts = (data[at : at + 255] for at in range(0, len(data), 255))
    return b"".join(bytes([len(part)]) + part for part in parts)


#: Codes of one pixel: clear, 0, end, in three bits each.
_DOT = b"\x02\x44\x01"


def gif_flat() -> bytes:
    """67 million pixels in 30 KB: each code stands for one pixel more than the code before it, up to 3,839."""
    clear, first, last = 256, 258, 4095
    codes = [(clear, 9), (0, 9), *((code, max(9, code.bit_length())) for code in range(first, last + 1))]
    longest = last - first + 2
    missing = LARGE**2 - longest * (longest + 1) // 2
    bits = Bits()
    for code, length in [*codes, *[(last, 12)] * -(-missing // longest)]:
        bits.put(code, length)
    return _gif(LARGE, _blocks(bytes(bits)))


GIFS: Makers = {
    "gif-comment": lambda: _gif(SMALL, _DOT, bits=2, before=b"\x21\xfe" + b"\1A" * (MOST_BYTES // 2 - 200) + b"\0"),
    "gif-frames": lambda: _gif(1, _DOT, bits=2, times=2_000_000),
    "gif-flat": gif_flat,
    "gif-clears": lambda: _gif(SMALL, _blocks(b"\x24\x49\x92" * 85) * (MOST_BYTES // 256 - 2), bits=2),
}
