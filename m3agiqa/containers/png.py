"""PNG and APNG (W3C PNG, third edition)."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from m3agiqa.colour import MAX_PROFILE_BYTES, Colour
from m3agiqa.containers import exif
from m3agiqa.containers.apng import FirstFrame, frame_count
from m3agiqa.containers.still import PartCounter, Still
from m3agiqa.errors import ImageUnreadable

SIGNATURE = b"\x89PNG\r\n\x1a\n"

#: Channels by colour type.
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
#: x and y offset, x and y step of the seven passes of an interlaced image.
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


@dataclass(frozen=True)
class _Header:
    width: int
    height: int
    depth: int
    colour_type: int
    interlaced: int

    @classmethod
    def parse(cls, content: bytes) -> _Header:
        if len(content) != 13 or not any(content[:4]) or not any(content[4:8]):
            raise ImageUnreadable("broken header (IHDR)")
        width, height, depth, colour_type, _, _, interlaced = struct.unpack(">IIBBBBB", content)
        if colour_type not in _CHANNELS:
            raise ImageUnreadable("broken header (colour type)")
        return cls(width, height, depth, colour_type, interlaced)

    def chunk(self) -> bytes:
        fields = self.width, self.height, self.depth, self.colour_type, 0, 0, self.interlaced
        return chunk(b"IHDR", struct.pack(">IIBBBBB", *fields))


def recognises(data: bytes) -> bool:
    return data.startswith(SIGNATURE)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def still(data: bytes) -> Still:
    """The image, or the first frame of an animation that does not begin with it."""
    header, pixels, chunks, first = _walk(data)
    canvas, offset = (header.width, header.height), (0, 0)
    frames = frame_count(chunks.get(b"acTL", b""))
    if frames:
        frame = first.on(*canvas)
        if not first.in_image_data:
            pixels, offset = first.pixels, (frame.left, frame.top)
            header = replace(header, width=frame.width, height=frame.height)
    key = _key(header, chunks.get(b"tRNS", b""))
    return Still(
        format="PNG",
        data=_file(header, _palette_and_transparency(header, chunks, key), pixels),
        size=(header.width, header.height),
        canvas=canvas,
        offset=offset,
        frames=max(1, frames),
        colour=_colour(chunks),
        orientation=exif.orientation(chunks.get(b"eXIf", b"")),
        transparent=key if header.depth == 16 else None,
    )


def _walk(data: bytes) -> tuple[_Header, list[bytes], dict[bytes, bytes], FirstFrame]:
    """Header, image data, the chunks in front of it by kind, and the first frame of an animation.

    As viewers do, this passes over an ancillary chunk with a wrong checksum, and over what stands behind the image
    data; a critical chunk that is wrong or unknown, or one amid the image data, breaks the image.
    """
    header: _Header | None = None
    pixels: list[bytes] = []
    chunks: dict[bytes, bytes] = {}
    first = FirstFrame()
    ended = pixels_sound = True
    for kind, content, sound in _chunks(data):
        if header is None:
            if kind != b"IHDR" or not sound:
                raise ImageUnreadable("broken header (no IHDR)")
            header = _Header.parse(content)
            continue
        if kind == b"IDAT":
            if (pixels and ended) or not pixels_sound:
                raise ImageUnreadable("broken PNG (image data)")
            pixels.append(content)
            ended, pixels_sound = False, sound
            continue
        ended = True
        if kind == b"IEND":
            break
        if kind in (b"fcTL", b"fdAT"):
            first.add(kind, content, sound=sound, before_image_data=not pixels)
        elif kind[:1].isupper() and (not sound or kind != b"PLTE"):
            raise ImageUnreadable("broken PNG (a critical chunk)")
        elif sound and not pixels:
            if kind == b"PLTE":
                chunks.pop(b"tRNS", None)  # a tRNS chunk counts behind the palette alone
            chunks.setdefault(kind, content)
    if header is None or not pixels:
        raise ImageUnreadable("broken or truncated PNG (no image data)")
    return header, pixels, chunks, first


def _palette_and_transparency(
    header: _Header, chunks: dict[bytes, bytes], key: tuple[int, ...] | None
) -> Iterator[bytes]:
    """The chunks that the decoder needs beside the header and the image data."""
    if b"PLTE" in chunks:
        yield chunk(b"PLTE", chunks[b"PLTE"])
    if header.colour_type == 3 and chunks.get(b"tRNS"):
        yield chunk(b"tRNS", chunks[b"tRNS"])
    elif key is not None and header.depth < 16 and (comparable := _comparable(header, key)):
        yield chunk(b"tRNS", comparable)


def _file(header: _Header, chunks: Iterable[bytes], pixels: Sequence[bytes]) -> bytes:
    return b"".join([SIGNATURE, header.chunk(), *chunks, chunk(b"IDAT", b"".join(pixels)), chunk(b"IEND", b"")])


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bool]]:
    """Kind, content, and whether the checksum is right."""
    parts, at = PartCounter(), len(SIGNATURE)
    while at + 8 <= len(data):
        parts.count()
        length, kind = struct.unpack_from(">I4s", data, at)
        content = data[at + 8 : at + 8 + length]
        end = at + 8 + length
        sound = data[end : end + 4] == struct.pack(">I", zlib.crc32(content, zlib.crc32(kind)))
        yield kind, content, sound
        at = end + 4


def _key(header: _Header, content: bytes) -> tuple[int, ...] | None:
    """The samples of the one colour that is transparent."""
    channels = {0: 1, 2: 3}.get(header.colour_type)
    if channels is None or len(content) != 2 * channels:
        return None
    return struct.unpack(f">{channels}H", content)


def _comparable(header: _Header, key: tuple[int, ...]) -> bytes:
    """Content of a tRNS chunk by which Pillow finds the pixels that a viewer finds; empty if a viewer finds none.

    Viewers compare the low byte alone; Pillow compares samples of 2 and 4 bits once it has scaled them to 8.
    """
    most = (1 << header.depth) - 1
    samples = [sample & 0xFF for sample in key]
    if max(samples) > most:
        return b""
    scale = 255 // most if header.depth in (2, 4) else 1
    return struct.pack(f">{len(samples)}H", *(sample * scale for sample in samples))


def _colour(chunks: dict[bytes, bytes]) -> Colour:
    gamma, chromaticities, coding = (chunks.get(kind, b"") for kind in (b"gAMA", b"cHRM", b"cICP"))
    return Colour(
        icc=_profile(chunks.get(b"iCCP", b"")),
        srgb=len(chunks.get(b"sRGB", b"")) == 1 and chunks[b"sRGB"][0] <= 3,
        gamma=struct.unpack(">I", gamma)[0] if len(gamma) == 4 else None,
        chromaticities=struct.unpack(">8I", chromaticities) if len(chromaticities) == 32 else None,
        cicp=(coding[0], coding[1]) if len(coding) == 4 and coding[2:] == b"\0\1" else None,  # RGB, full range
    )


def _profile(content: bytes) -> bytes | None:
    name, _, packed = content.partition(b"\0")
    inflate = zlib.decompressobj()
    try:
        profile = inflate.decompress(packed[1:], MAX_PROFILE_BYTES)
    except zlib.error:
        return None
    return profile if name and profile and not inflate.unconsumed_tail else None


def is_complete(data: bytes) -> bool:
    """Whether a PNG that `still` wrote has all its rows."""
    header, pixels = _parts(data)
    inflate, left = zlib.decompressobj(), _raw_bytes(header)
    try:
        while left > 0 and (raw := inflate.decompress(pixels, min(left, 1 << 20))):
            pixels, left = inflate.unconsumed_tail, left - len(raw)
    except zlib.error:
        return False
    return left <= 0


def halves(data: bytes) -> tuple[bytes, bytes]:
    """Two PNGs of 8 bits: the high and the low bytes of one of 16 bits that `still` wrote.

    Every filter of PNG predicts a byte from the bytes at the same position in other pixels, so filtered rows come apart
    as they are.

    Raises:
        ImageUnreadable: the image data is broken or truncated.
    """
    header, pixels = _parts(data)
    expected = _raw_bytes(header)
    try:
        raw = zlib.decompressobj().decompress(pixels, expected)
    except zlib.error as error:
        raise ImageUnreadable("broken or truncated PNG (image data)") from error
    if len(raw) < expected:
        raise ImageUnreadable("broken or truncated PNG (image data)")
    high: list[bytes] = []
    low: list[bytes] = []
    at = 0
    for width, height in _passes(header):
        length = _pass_bytes(header, width, height)
        rows = np.frombuffer(raw, np.uint8, length, at).reshape(height, -1)
        at += length
        for part, first in ((high, 1), (low, 2)):
            part.append(np.concatenate([rows[:, :1], rows[:, first::2]], axis=1).tobytes())
    eight = replace(header, depth=8)
    return (
        _file(eight, (), [zlib.compress(b"".join(high), 1)]),
        _file(eight, (), [zlib.compress(b"".join(low), 1)]),
    )


def _parts(data: bytes) -> tuple[_Header, bytes]:
    """Header and image data of a file that `still` wrote."""
    contents = {kind: content for kind, content, _ in _chunks(data)}
    return _Header.parse(contents[b"IHDR"]), contents[b"IDAT"]


def _raw_bytes(header: _Header) -> int:
    """Bytes of the image data once inflated."""
    return sum(_pass_bytes(header, width, height) for width, height in _passes(header))


def _pass_bytes(header: _Header, width: int, height: int) -> int:
    """Bytes of a pass: rows of samples, each behind a byte that names its filter."""
    return (1 + (_CHANNELS[header.colour_type] * header.depth * width + 7) // 8) * height


def _passes(header: _Header) -> Iterator[tuple[int, int]]:
    """Width and height of each pass that has pixels."""
    if not header.interlaced:
        yield header.width, header.height
        return
    for left, top, across, down in _ADAM7:
        width = -(-(header.width - left) // across)
        height = -(-(header.height - top) // down)
        if width > 0 and height > 0:
            yield width, height
