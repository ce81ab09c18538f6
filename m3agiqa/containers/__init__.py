"""An image file to the one still image that a viewer shows of it, and nothing else.

Decoders also read what nobody sees: texts, thumbnails, empty chunks, thousands of scans, later frames. That costs
seconds or gigabytes, and one odd byte in it makes them refuse a sound image. So each format has a walk over its parts
(chunks, segments, blocks) that keeps those which make the image, and writes a file of them for the decoder. Every walk
is bounded, and none decodes a sample.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from m3agiqa.containers import avif, gif, jpeg, png, webp
from m3agiqa.containers.still import MAX_PARTS, Still
from m3agiqa.errors import ImageUnreadable

__all__ = ["FORMATS", "MAX_PARTS", "Still", "first_still"]


@dataclass(frozen=True)
class _Format:
    recognises: Callable[[bytes], bool]
    still: Callable[[bytes], Still]


_FORMATS = {
    "JPEG": _Format(jpeg.recognises, jpeg.still),
    "PNG": _Format(png.recognises, png.still),
    "WEBP": _Format(webp.recognises, webp.still),
    "GIF": _Format(gif.recognises, gif.still),
    "AVIF": _Format(avif.recognises, avif.still),
}
FORMATS = tuple(_FORMATS)


def first_still(data: bytes) -> Still:
    """The first image that a viewer shows of the file `data`.

    Raises:
        ImageUnreadable: the file has none of FORMATS, or is broken beyond what a viewer forgives.
        ImageTooCostly: the file has more parts than a sound one.
    """
    for known in _FORMATS.values():
        if known.recognises(data):
            return known.still(data)
    raise ImageUnreadable(f"not an image in one of the formats {', '.join(FORMATS)}")
