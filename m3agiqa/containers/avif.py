"""AVIF: boxes (ISO/IEC 14496-12) around AV1.

libavif reads only the boxes that it needs, so the file stays as it is. The walk counts its boxes, and reads from them
the colour space, which Pillow does not tell.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from m3agiqa.colour import Colour
from m3agiqa.containers.still import PartCounter, Still

_BRANDS = (b"avif", b"avis", b"mif1", b"msf1")
#: The boxes that lead to an image's properties; each has this many bytes before the first box inside it.
_PATH = {b"meta": 4, b"iprp": 0, b"ipco": 0}


def recognises(data: bytes) -> bool:
    return data[4:8] == b"ftyp" and data[8:12] in _BRANDS


def still(data: bytes) -> Still:
    """The whole file: its decoder takes the first image by itself, and turns it as the boxes say."""
    parts = PartCounter()
    colour = Colour()
    for kind, start, end in _boxes(data, 0, len(data), parts):
        if kind == b"colr" and colour.cicp is None and end - start >= 11 and data[start : start + 4] == b"nclx":
            colour = Colour.from_nclx(*struct.unpack_from(">HH", data, start + 4))
    return Still(format="AVIF", data=data, size=None, colour=colour, orientation=None)


def _boxes(data: bytes, at: int, end: int, parts: PartCounter) -> Iterator[tuple[bytes, int, int]]:
    """Kind, begin and end of content of each box along _PATH."""
    while at + 8 <= end:
        parts.count()
        length, kind = struct.unpack_from(">I4s", data, at)
        start = at + 8
        if length == 1:
            if at + 16 > end:
                return
            (length,) = struct.unpack_from(">Q", data, at + 8)
            start = at + 16
        behind = end if length == 0 else min(at + length, end)
        if behind <= at or behind < start:
            return
        yield kind, start, behind
        if kind in _PATH:
            yield from _boxes(data, start + _PATH[kind], behind, parts)
        at = behind
