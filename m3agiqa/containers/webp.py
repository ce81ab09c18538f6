"""WebP (RFC 9649): RIFF chunks around VP8 or VP8L."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from m3agiqa.colour import Colour
from m3agiqa.containers.still import PartCounter, Still
from m3agiqa.errors import ImageUnreadable

_ALPHA_FLAG = 0x10
_PROFILE_FLAG = 0x20
_ANIMATION_FLAG = 0x02


def recognises(data: bytes) -> bool:
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def still(data: bytes) -> Still:
    """The image, or the first frame of an animation on its canvas. Viewers obey no orientation in a WebP, and a colour
    profile only where the header announces it and nothing moves.
    """
    parts = PartCounter()
    extended = b""
    offset = (0, 0)
    image: dict[bytes, bytes] = {}
    icc = None
    frames = 0
    for kind, content in _chunks(data[: 8 + int.from_bytes(data[4:8], "little")], 12, parts):
        if kind == b"VP8X" and len(content) >= 10:
            extended = extended or content
        elif kind == b"ICCP" and icc is None:
            icc = content
        elif kind == b"ANMF" and len(content) >= 16:
            frames += 1
            if frames == 1:
                offset = (2 * _uint24(content, 0), 2 * _uint24(content, 3))
                image = _image(_chunks(content, 16, parts))
        elif not frames and kind in (b"ALPH", b"VP8 ", b"VP8L"):
            image.setdefault(kind, content)
    if b"VP8 " not in image and b"VP8L" not in image:
        raise ImageUnreadable("broken or truncated WEBP (no image)")
    size = _size(image)
    flags = extended[0] if extended else 0
    canvas = (1 + _uint24(extended, 4), 1 + _uint24(extended, 7)) if extended else size
    if flags & _ANIMATION_FLAG and not frames:
        raise ImageUnreadable("broken WEBP (an animation without a frame)")
    fits = all(at + side <= whole for at, side, whole in zip(offset, size, canvas, strict=True))
    if not (fits if frames else canvas == size):
        raise ImageUnreadable("broken WEBP (two sizes)")
    return Still(
        format="WEBP",
        data=_file(image),
        size=size,
        canvas=canvas,
        offset=offset,
        frames=max(1, frames),
        colour=Colour(icc=icc if flags & _PROFILE_FLAG and not frames else None),
    )


def _image(chunks: Iterator[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    image: dict[bytes, bytes] = {}
    for kind, content in chunks:
        image.setdefault(kind, content)
    return image


def _chunks(data: bytes, at: int, parts: PartCounter) -> Iterator[tuple[bytes, bytes]]:
    while at + 8 <= len(data):
        parts.count()
        kind, length = struct.unpack_from("<4sI", data, at)
        if at + 8 + length > len(data):
            raise ImageUnreadable("truncated WEBP")
        yield kind, data[at + 8 : at + 8 + length]
        at += 8 + length + length % 2


def _uint24(content: bytes, at: int) -> int:
    return int.from_bytes(content[at : at + 3], "little")


def _file(image: dict[bytes, bytes]) -> bytes:
    """A file with one image. VP8 with alpha needs the extended form, which names the size."""
    if b"VP8L" in image:
        chunks = [_chunk(b"VP8L", image[b"VP8L"])]
    elif b"ALPH" in image:
        width, height = _size(image)
        header = struct.pack("<BBBB", _ALPHA_FLAG, 0, 0, 0) + b"".join(
            (side - 1).to_bytes(3, "little") for side in (width, height)
        )
        chunks = [_chunk(b"VP8X", header), _chunk(b"ALPH", image[b"ALPH"]), _chunk(b"VP8 ", image[b"VP8 "])]
    else:
        chunks = [_chunk(b"VP8 ", image[b"VP8 "])]
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack("<4sI", kind, len(content)) + content + b"\0" * (len(content) % 2)


def _size(image: dict[bytes, bytes]) -> tuple[int, int]:
    """Width and height from the header of a VP8L image (RFC 9649, 7.1.1) or a VP8 key frame (RFC 6386, 9.1)."""
    if (lossless := image.get(b"VP8L")) is not None:
        if len(lossless) < 5 or lossless[0] != 0x2F:
            raise ImageUnreadable("broken or truncated WEBP (header)")
        bits = int.from_bytes(lossless[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    content = image[b"VP8 "]
    if len(content) < 10 or content[3:6] != b"\x9d\x01\x2a":
        raise ImageUnreadable("broken or truncated WEBP (no key frame)")
    width, height = struct.unpack_from("<HH", content, 6)
    if not width & 0x3FFF or not height & 0x3FFF:
        raise ImageUnreadable("broken WEBP (no size)")
    return width & 0x3FFF, height & 0x3FFF
