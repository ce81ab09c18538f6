"""JPEG files that cost a decoder more than they look like."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import partial

from worker.load.bombs.common import LARGE, MOST_BYTES, SMALL, Makers

_SOF0, _SOF2, _SOF10, _DHT, _SOS, _DQT, _DRI, _APP5, _APP14 = 0xC0, 0xC2, 0xCA, 0xC4, 0xDA, 0xDB, 0xDD, 0xE5, 0xEE
_SOI, _EOI = b"\xff\xd8", b"\xff\xd9"
#: Blocks that one code of a progressive scan leaves unchanged: symbol 0xE0 and 14 bits, all set.
_RUN = 32767


def _segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, 2 + len(content)) + content


def _frame(kind: int, side: int, components: int) -> bytes:
    """The tables and the header of a square frame. Each table of codes has a single code, a zero bit: for DC, it means
    "as before"; for AC, "end of block" in a sequential frame, and _RUN unchanged blocks in a progressive one.
    """
    sampling = b"".join(bytes([number, 0x11, 0]) for number in range(1, 1 + components))
    codes = bytes([1, *[0] * 15])
    return (
        _segment(_DQT, bytes([0, *[1] * 64]))
        + _segment(kind, struct.pack(">BHHB", 8, side, side, components) + sampling)
        + _segment(_DHT, b"\x00" + codes + b"\x00")
        + _segment(_DHT, b"\x10" + codes + (b"\xe0" if kind == _SOF2 else b"\x00"))
    )


def _scan(components: Sequence[int], band: tuple[int, int], approximation: int, samples: bytes) -> bytes:
    chosen = b"".join(bytes([number, 0]) for number in components)
    return _segment(_SOS, bytes([len(components)]) + chosen + bytes([*band, approximation])) + samples


def _idle(side: int) -> bytes:
    """The samples of a progressive scan that changes no block of a square image."""
    runs = -(-((side // 8) ** 2) // _RUN)
    bits = ("0" + "1" * 14) * runs
    bits += "1" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8).replace(b"\xff", b"\xff\x00")


def _progressive(side: int, scans: int, *, refining: bool = True, components: int = 1, kind: int = _SOF2) -> bytes:
    """A flat image of `scans` scans, of which only the first draws anything. A scan that refines still visits every
    coefficient. With arithmetic coding, a decoder accepts a scan without samples.
    """
    everything = range(1, 1 + components)
    coded = kind == _SOF2
    first = _scan(everything, (0, 0), 0, bytes(coded * components * (side // 8) ** 2 // 8))
    adobe = _segment(_APP14, b"Adobe\0\x64\0\0\0\0\0") if components == 4 else b""
    idle = _idle(side) if coded else b""
    rest = b"".join(_scan([number], (1, 63), 0x10 if refining else 0, idle) for number in everything)
    return _SOI + adobe + _frame(kind, side, components) + first + rest * ((scans - 1) // components) + _EOI


def _small_jpeg(*, before: bytes = b"", amid: bytes = b"") -> bytes:
    """A sound image with extra bytes before its tables, or in the middle of its samples."""
    samples = bytes((SMALL // 8) ** 2 // 8)
    return _SOI + before + _frame(_SOF0, SMALL, 1) + _scan([1], (0, 63), 0, samples + amid + samples) + _EOI


def jpeg_restarts() -> bytes:
    """A million blocks with a restart marker behind each."""
    blocks = (LARGE // 8) ** 2
    samples = b"".join(b"\x3f\xff" + bytes([0xD0 + number]) for number in range(8)) * (blocks // 8)
    return _SOI + _segment(_DRI, b"\0\1") + _frame(_SOF0, LARGE, 1) + _scan([1], (0, 63), 0, samples) + _EOI


JPEGS: Makers = {
    "jpeg-scans": partial(_progressive, LARGE, 12_000, refining=False),
    "jpeg-refinements": partial(_progressive, 2000, 1750),
    "jpeg-nearly": partial(_progressive, 2000, 160),
    "jpeg-arithmetic": partial(_progressive, LARGE, 104, kind=_SOF10),
    "jpeg-cmyk": partial(_progressive, LARGE, 101, components=4),
    "jpeg-fill": lambda: _small_jpeg(before=b"\xff" * (MOST_BYTES - 500)),
    "jpeg-segments": lambda: _small_jpeg(before=_segment(_APP5, b"") * (MOST_BYTES // 4 - 200)),
    "jpeg-markers": lambda: _small_jpeg(amid=b"\xff\xd0\xff\xd1" * (MOST_BYTES // 4 - 200)),
    "jpeg-stuffing": lambda: _small_jpeg(amid=b"\xff\xff\0" * (MOST_BYTES // 3 - 200)),
    "jpeg-restarts": jpeg_restarts,
}
