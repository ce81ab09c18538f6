"""What a walk over a file gives, and the bound that all walks share."""

from __future__ import annotations

from dataclasses import dataclass, field

from m3agiqa.colour import Colour
from m3agiqa.errors import ImageTooCostly

#: Parts of a file (chunks, segments, blocks, frames) that a walk passes over. A sound file of 32 MB has some thousand
#: parts, a GIF of that size 130,000; walking over so many takes a tenth of a second.
MAX_PARTS = 200_000


@dataclass(frozen=True)
class Still:
    """One still image: a file for the decoder, and what this file's own container said about it."""

    format: str
    #: A file that holds this image alone.
    data: bytes = field(repr=False)
    #: Width and height of the image in `data`, pixels; None if only the decoder can tell.
    size: tuple[int, int] | None
    #: Width and height of the canvas as shown, pixels; None if the image in `data` fills it.
    canvas: tuple[int, int] | None = None
    #: Position on the canvas of the image in `data`, pixels from the left and from the top.
    offset: tuple[int, int] = (0, 0)
    #: Frames of the animation whose first this is; 1 for a file without animation.
    frames: int = 1
    colour: Colour = field(default_factory=Colour, repr=False)
    #: Orientation as EXIF numbers it; None if only the decoder can tell.
    orientation: int | None = 1
    #: The transparent colour of a PNG with samples of 16 bits: red, green and blue, or grey alone.
    transparent: tuple[int, ...] | None = None
    #: Times that the decoder goes over the whole image: the scans of a progressive JPEG.
    passes: int = 1


class PartCounter:
    """Counts the parts of one file.

    Raises:
        ImageTooCostly: `count` is called more than MAX_PARTS times.
    """

    def __init__(self) -> None:
        self._left = MAX_PARTS

    def count(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise ImageTooCostly(f"the file has more than {MAX_PARTS:,} parts")
