"""An image file to the one still image that a viewer shows of it, and nothing else.

Decoders do much with what nobody sees: texts, thumbnails, empty chunks, thousands of scans, frames behind the first. It
costs seconds or gigabytes, and one odd byte there makes them refuse a sound image. So each format has a walk over its
parts (chunks, segments, blocks) that keeps those which make the image, and builds a file of them for the decoder.
Every walk is bounded; none decodes a sample.
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
        ImageUnreadable: not a file of one of FORMATS, or broken beyond what a viewer forgives.
        ImageTooCostly: more parts than a sound file has.
    """
    for known in _FORMATS.values():
        if known.recognises(data):
            return known.still(data)
    raise ImageUnreadable(f"not an image in one of the formats {', '.join(FORMATS)}")
