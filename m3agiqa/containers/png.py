"""PNG and APNG (W3C PNG, third edition)."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from m3agiqa.colour import MAX_PROFILE_BYTES, Colour
from m3agiqa.containers import exif
from m3agiqa.containers.still import Parts, Still
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


@dataclass(frozen=True)
class _Frame:
    """What an fcTL chunk says of the frame behind it."""

    width: int
    height: int
    left: int
    top: int


def recognises(data: bytes) -> bool:
    return data.startswith(SIGNATURE)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def still(data: bytes) -> Still:
    """The image, or the first frame of an animation that does not begin with it.

    As viewers do, this passes over an ancillary chunk with a wrong checksum, and over what stands behind the image
    data; a critical chunk that is wrong or unknown, or one amid the image data, breaks the image.
    """
    header: _Header | None = None
    found: dict[bytes, bytes] = {}
    pixels: list[bytes] = []
    frame: _Frame | None = None
    frame_first = False
    frame_pixels: list[bytes] = []
    controls = sequence = 0
    ended = pixels_sound = True
    for kind, content, sound in _chunks(data):
        if header is None:
            if kind != b"IHDR" or not sound:
                raise ImageUnreadable("broken header (no IHDR)")
            header = _Header.parse(content)
        elif kind == b"IDAT":
            if (pixels and ended) or not pixels_sound:
                raise ImageUnreadable("broken PNG (image data)")
            pixels.append(content)
            ended, pixels_sound = False, sound
        else:
            ended = True
            if kind == b"IEND":
                break
            if kind in (b"fcTL", b"fdAT") and controls < 2:
                in_order = len(content) >= 4 and content[:4] == struct.pack(">I", sequence)
                sequence += 1
                if kind == b"fcTL" and sound and in_order and len(content) == 26:
                    controls += 1
                    if controls == 1:
                        frame, frame_first = _Frame(*struct.unpack_from(">IIII", content, 4)), not pixels
                elif kind == b"fdAT" and in_order and controls == 1:
                    frame_pixels.append(content[4:])
            elif kind[:1].isupper() and (not sound or kind != b"PLTE"):
                raise ImageUnreadable("broken PNG (a critical chunk)")
            elif sound and not pixels:
                if kind == b"PLTE":
                    found.pop(b"tRNS", None)  # which counts behind the palette alone
                found.setdefault(kind, content)
    if header is None or not pixels:
        raise ImageUnreadable("broken or truncated PNG (no image data)")

    frames = _frames(found)
    canvas, offset = (header.width, header.height), (0, 0)
    if frames:
        whole = _Frame(header.width, header.height, 0, 0)
        if frame is None or not (frame == whole if frame_first else frame_pixels and _fits(frame, header)):
            raise ImageUnreadable("broken PNG (an animation without its first frame)")
        if not frame_first:  # the image itself is not in the animation
            pixels, offset = frame_pixels, (frame.left, frame.top)
            header = replace(header, width=frame.width, height=frame.height)
    transparency = found.pop(b"tRNS", b"")
    key = _key(header, transparency)
    chunks = [chunk(b"PLTE", found[b"PLTE"])] if b"PLTE" in found else []
    if header.colour_type == 3 and transparency:
        chunks.append(chunk(b"tRNS", transparency))
    elif key is not None and header.depth < 16 and (comparable := _comparable(header, key)):
        chunks.append(chunk(b"tRNS", comparable))
    return Still(
        format="PNG",
        data=_file(header, chunks, pixels),
        size=(header.width, header.height),
        canvas=canvas,
        offset=offset,
        frames=max(1, frames),
        colour=_colour(found),
        orientation=exif.orientation(found.get(b"eXIf", b"")),
        transparent=key if header.depth == 16 else None,
    )


def _file(header: _Header, chunks: Sequence[bytes], pixels: Sequence[bytes]) -> bytes:
    return b"".join([SIGNATURE, header.chunk(), *chunks, chunk(b"IDAT", b"".join(pixels)), chunk(b"IEND", b"")])


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bool]]:
    """Kind, content, and whether the checksum is right."""
    parts, at = Parts(), len(SIGNATURE)
    while at + 8 <= len(data):
        parts.one()
        length, kind = struct.unpack_from(">I4s", data, at)
        content = data[at + 8 : at + 8 + length]
        end = at + 8 + length
        sound = data[end : end + 4] == struct.pack(">I", zlib.crc32(content, zlib.crc32(kind)))
        yield kind, content, sound
        at = end + 4


def _frames(found: dict[bytes, bytes]) -> int:
    control = found.get(b"acTL", b"")
    return int(struct.unpack_from(">I", control)[0]) if len(control) == 8 else 0


def _fits(frame: _Frame, header: _Header) -> bool:
    return (
        0 < frame.width <= header.width - frame.left
        and 0 < frame.height <= header.height - frame.top
    )  # fmt: skip


def _key(header: _Header, content: bytes) -> tuple[int, ...] | None:
    """The samples of the one colour that is transparent."""
    channels = {0: 1, 2: 3}.get(header.colour_type)
    if channels is None or len(content) != 2 * channels:
        return None
    return struct.unpack(f">{channels}H", content)


def _comparable(header: _Header, key: tuple[int, ...]) -> bytes:
    """Content of a tRNS chunk with which Pillow finds the pixels that a viewer does; empty if it finds none.

    The low byte is compared; Pillow compares samples of 2 and 4 bits after it has scaled them to 8.
    """
    most = (1 << header.depth) - 1
    samples = [sample & 0xFF for sample in key]
    if max(samples) > most:
        return b""
    scale = 255 // most if header.depth in (2, 4) else 1
    return struct.pack(f">{len(samples)}H", *(sample * scale for sample in samples))


def _colour(found: dict[bytes, bytes]) -> Colour:
    gamma, chromaticities, coding = (found.get(kind, b"") for kind in (b"gAMA", b"cHRM", b"cICP"))
    return Colour(
        icc=_profile(found.get(b"iCCP", b"")),
        srgb=len(found.get(b"sRGB", b"")) == 1 and found[b"sRGB"][0] <= 3,
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
    """Whether a PNG as `still` gives it has all its rows."""
    header, pixels = _parts(data)
    inflate, left = zlib.decompressobj(), _raw_bytes(header)
    try:
        while left > 0 and (raw := inflate.decompress(pixels, min(left, 1 << 20))):
            pixels, left = inflate.unconsumed_tail, left - len(raw)
    except zlib.error:
        return False
    return left <= 0


def halves(data: bytes) -> tuple[bytes, bytes]:
    """PNGs of 8 bits with the high and the low bytes of one of 16 bits, as `still` gives it.

    Every filter of PNG predicts a byte from bytes at the same place within other pixels, so filtered rows can be taken
    apart as they are.

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
    """Header and image data of a file that `still` made."""
    contents = {kind: content for kind, content, _ in _chunks(data)}
    return _Header.parse(contents[b"IHDR"]), contents[b"IDAT"]


def _raw_bytes(header: _Header) -> int:
    """Bytes of the image data once inflated."""
    return sum(_pass_bytes(header, width, height) for width, height in _passes(header))


def _pass_bytes(header: _Header, width: int, height: int) -> int:
    """Rows of samples, a byte for the filter in front of each."""
    return (1 + (_CHANNELS[header.colour_type] * header.depth * width + 7) // 8) * height


def _passes(header: _Header) -> Iterator[tuple[int, int]]:
    """Width and height of what each pass holds, those without a pixel left out."""
    if not header.interlaced:
        yield header.width, header.height
        return
    for left, top, across, down in _ADAM7:
        width = -(-(header.width - left) // across)
        height = -(-(header.height - top) // down)
        if width > 0 and height > 0:
            yield width, height
