"""WEBP files that cost a decoder more than they look like."""

from __future__ import annotations

import random
import struct
from functools import partial

from worker.load.bombs.bits import Bits
from worker.load.bombs.common import LARGE, LIGHT, SMALL, Makers, noise


def _webp(*chunks: bytes) -> bytes:
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _riff(kind: bytes, content: bytes) -> bytes:
    return struct.pack("<4sI", kind, len(content)) + content + b"\0" * (len(content) % 2)


def _vp8l(side: int, bits: Bits, pixels: bytes = b"") -> bytes:
    """A lossless image without alpha: its header, then `bits`, then `pixels`."""
    header = side - 1 | side - 1 << 14
    return _riff(b"VP8L", b"\x2f" + header.to_bytes(4, "little") + bytes(bits) + pixels)


def _only(*symbols: int) -> Bits:
    """Codes with a single symbol each, so that a pixel takes no bit."""
    bits = Bits()
    for symbol in symbols:
        bits.put(0b101, 3).put(symbol, 8)
    return bits


def _bytewise(alphabets: int) -> Bits:
    """Codes of eight bits for each of 256 symbols. The code of code lengths has one symbol, 8, the twelfth in its
    order; 256 lengths follow.
    """
    return Bits().repeat(Bits().put(0, 1).put(8, 4).put(0, 33).put(1, 3).put(1, 1).put(3, 3).put(254, 8), alphabets)


def _flat_vp8l(side: int) -> bytes:
    return _vp8l(side, Bits().put(0, 3).repeat(_only(0, 0, 0, 0, 0), 1))


def webp_predicted() -> bytes:
    """Each pixel is predicted from its neighbours in the slowest way, then its colours are mixed."""
    bits = Bits()
    for transform, symbols in ((0, (11, 0, 0, 0, 0)), (1, (3, 5, 7, 0, 0))):
        # One set of parameters for each block of 512 pixels.
        bits.put(1, 1).put(transform, 2).put(7, 3).put(0, 1).repeat(_only(*symbols), 1)
    bits.put(1, 1).put(2, 2)
    return _webp(_vp8l(LARGE, bits.put(0, 3).repeat(_only(1, 2, 3, 0, 0), 1)))


def webp_codes() -> bytes:
    """An image that looks cheap, with 65,536 groups of codes, each of which takes kilobytes of memory."""
    # The group changes every four pixels; another image holds the groups' numbers, in red and green.
    bits = Bits().put(0, 2).put(1, 1).put(0, 3).put(0, 1).repeat(_bytewise(2), 1).repeat(_only(0, 0, 0), 1)
    for block in range((LIGHT // 4) ** 2):
        bits.put(-1 - block & 0xFFFF, 16)
    bits.repeat(_bytewise(4).repeat(_only(0), 1), 2**16)
    return _webp(_vp8l(LIGHT, bits, random.Random(1).randbytes(4 * LIGHT**2)))


def _animation(side: int, frames: int) -> bytes:
    """Small frames on a canvas of `side` pixels."""
    corner = (side - 1).to_bytes(3, "little")
    frame = bytes(6) + (SMALL - 1).to_bytes(3, "little") * 2 + bytes([100, 0, 0, 0]) + _flat_vp8l(SMALL)
    return _webp(
        _riff(b"VP8X", bytes([2, 0, 0, 0]) + corner + corner), _riff(b"ANIM", bytes(6)), _riff(b"ANMF", frame) * frames
    )


WEBPS: Makers = {
    "webp-flat": lambda: _webp(_flat_vp8l(LARGE)),
    "webp-predicted": webp_predicted,
    "webp-codes": webp_codes,
    "webp-noise": partial(noise, LARGE, "WEBP", quality=60, method=0),
    "webp-canvas": partial(_animation, 16_383, 1),
    "webp-frames": partial(_animation, LARGE, 150_000),
}
