"""GIF 87a and 89a."""

from __future__ import annotations

import struct
from dataclasses import replace

from m3agiqa.containers.still import PartCounter, Still
from m3agiqa.errors import ImageUnreadable

_IMAGE, _EXTENSION, _TRAILER = 0x2C, 0x21, 0x3B
_GRAPHIC_CONTROL = 0xF9


def recognises(data: bytes) -> bool:
    return data.startswith((b"GIF87a", b"GIF89a"))


def still(data: bytes) -> Still:
    """The first frame on a canvas of the screen's size, or larger where the frame reaches beyond the screen."""
    parts = PartCounter()
    control = b""
    first: Still | None = None
    frames = 0
    try:
        width, height, flags = struct.unpack_from("<HHB", data, 6)
        at = tables = 13 + _table_bytes(flags)
        while data[at] != _TRAILER:
            parts.count()
            if data[at] == _EXTENSION:
                end = _behind_blocks(data, at + 2, parts)
                if data[at + 1] == _GRAPHIC_CONTROL:
                    control = data[at:end]
            elif data[at] == _IMAGE:
                left, top, across, down, local = struct.unpack_from("<HHHHB", data, at + 1)
                coded = at + 10 + _table_bytes(local)
                end = _behind_blocks(data, coded + 1, parts)
                frames += 1
                if first is None:
                    descriptor = struct.pack("<BHHHHB", _IMAGE, 0, 0, across, down, local)
                    screen = data[:6] + struct.pack("<HH", across, down) + data[10:tables]
                    first = Still(
                        format="GIF",
                        data=b"".join([screen, control, descriptor, data[at + 10 : end], b";"]),
                        size=(across, down),
                        canvas=(max(width, left + across), max(height, top + down)),
                        offset=(left, top),
                    )
            else:
                break
            at = end
    except (IndexError, struct.error):
        # A file that is cut off behind its first frame still has all that is shown.
        if first is None:
            raise ImageUnreadable("broken or truncated GIF") from None
    if first is None or not all(first.size or ()):
        raise ImageUnreadable("broken or truncated GIF (no image)")
    return replace(first, frames=frames)


def _table_bytes(flags: int) -> int:
    """Bytes of the colour table that the flags of a screen or a frame announce."""
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


def _behind_blocks(data: bytes, at: int, parts: PartCounter) -> int:
    """Where a chain of blocks ends. Each begins with its length, and an empty one closes the chain."""
    while length := data[at]:
        parts.count()
        at += 1 + length
    return at + 1
