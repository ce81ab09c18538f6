"""JPEG (ITU-T T.81), with the segments that JFIF, EXIF, ICC and Adobe put into it."""

from __future__ import annotations

import re
import struct
from collections.abc import Collection, Iterator, Mapping

from m3agiqa.colour import Colour
from m3agiqa.containers import exif
from m3agiqa.containers.still import PartCounter, Still
from m3agiqa.errors import ImageUnreadable

#: A marker, but no stuffed data, restart or padding in front of another marker.
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_PADDING = re.compile(rb"\xff{2,}")

_TEM, _SOI, _EOI, _SOS, _DQT, _DNL, _DRI, _APP0, _APP1, _APP2, _APP14 = (
    0x01, 0xD8, 0xD9, 0xDA, 0xDB, 0xDC, 0xDD, 0xE0, 0xE1, 0xE2, 0xEE,
)  # fmt: skip
#: Frame headers are among these, with the tables of the entropy coders.
_FRAME_AND_TABLES = frozenset(range(0xC0, 0xD0))
_NO_FRAMES = frozenset({0xC4, 0xC8, 0xCC})
_KEPT = _FRAME_AND_TABLES | {_DQT, _DRI, _DNL}

_EXIF = b"Exif\0"
_ICC = b"ICC_PROFILE\0"


def recognises(data: bytes) -> bool:
    return data.startswith(b"\xff\xd8\xff")


def still(data: bytes) -> Still:
    """The image without texts, thumbnails, padding and bytes behind its end."""
    kept = [b"\xff\xd8"]
    seen: set[bytes] = set()
    tiff: bytes | None = None
    profile: dict[int, bytes] = {}
    totals: set[int] = set()
    size: tuple[int, int] | None = None
    scans = 0
    for marker, content, samples in _segments(data):
        if marker in _KEPT:
            kept.append(_segment(marker, content))
            if marker in _FRAME_AND_TABLES - _NO_FRAMES and size is None:
                size = _size(content)
        elif marker == _SOS:
            scans += 1
            kept += [_segment(marker, content), samples]
        elif marker == _EOI:
            kept.append(b"\xff\xd9")
        elif (marker == _APP0 and content[:5] == b"JFIF\0") or (marker == _APP14 and content[:5] == b"Adobe"):
            if content[:5] not in seen:
                seen.add(content[:5])
                kept.append(_segment(marker, content))
        elif scans:
            continue  # metadata counts in front of the first scan alone
        elif marker == _APP1 and content.startswith(_EXIF) and len(content) > 6 and tiff is None:
            tiff = content[6:]
        elif marker == _APP2 and content.startswith(_ICC) and len(content) > 14 and not _whole(profile, totals):
            # A profile counts if each of its parts comes once and all name the same total; a repeated part adds 0.
            totals.add(content[13] if content[12] not in profile else 0)
            profile[content[12]] = content[14:]
    if size is None or not scans:
        raise ImageUnreadable("broken or truncated JPEG (no image)")
    icc = b"".join(profile[number] for number in sorted(profile)) if _whole(profile, totals) else None
    return Still(
        format="JPEG",
        data=b"".join(kept),
        size=size,
        colour=Colour(icc=icc),
        orientation=exif.orientation(tiff or b""),
        passes=scans,
    )


def _whole(profile: Mapping[int, bytes], totals: Collection[int]) -> bool:
    return len(totals) == 1 and profile.keys() == set(range(1, 1 + max(totals)))


def _size(frame: bytes) -> tuple[int, int]:
    """Width and height from a frame header."""
    if len(frame) < 5:
        raise ImageUnreadable("broken JPEG (frame header)")
    height, width = struct.unpack_from(">HH", frame, 1)
    if not width or not height:
        raise ImageUnreadable("broken JPEG (no size)")
    return width, height


def _segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, 2 + len(content)) + content


def _segments(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Marker and content of each segment, with the samples that follow a start of scan."""
    parts, at = PartCounter(), 2
    while (found := _MARKER.search(data, at)) is not None:
        parts.count()
        marker, at = data[found.start() + 1], found.end()
        if marker == _EOI:
            yield marker, b"", b""
            return
        if marker in (_TEM, _SOI):
            continue
        if at + 2 > len(data):
            return
        (length,) = struct.unpack_from(">H", data, at)
        if length < 2:
            raise ImageUnreadable("broken JPEG (a segment without a length)")
        content, at = data[at + 2 : at + length], at + length
        samples = b""
        if marker == _SOS:
            behind = _MARKER.search(data, at)
            samples = _PADDING.sub(b"\xff", data[at : behind.start() if behind else len(data)])
            at = behind.start() if behind else len(data)
        yield marker, content, samples
