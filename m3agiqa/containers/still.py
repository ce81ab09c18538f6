"""What the walks over files have in common."""

from __future__ import annotations

from dataclasses import dataclass, field

from m3agiqa.colour import Colour
from m3agiqa.errors import ImageTooCostly

#: Parts of a file that are looked at: chunks, segments, blocks, frames. A sound file of 32 MB has some thousand, a GIF
#: of that size 130,000 blocks; walking so many takes a tenth of a second.
MAX_PARTS = 200_000


@dataclass(frozen=True)
class Still:
    """One still image, as a file for the decoder, and what the decoder is not to be asked."""

    format: str
    #: A file with this image alone.
    data: bytes = field(repr=False)
    #: Width and height of the image in `data`, pixels; None where only the decoder can tell.
    size: tuple[int, int] | None
    #: Width and height of the whole image as shown; None if the one in `data` is all of it.
    canvas: tuple[int, int] | None = None
    #: Where on the canvas the image in `data` lies, pixels from the left and the top.
    offset: tuple[int, int] = (0, 0)
    #: Frames of the animation that this is the first of; 1 for a still file.
    frames: int = 1
    colour: Colour = field(default_factory=Colour, repr=False)
    #: Orientation as EXIF numbers it; None where the decoder is to be asked.
    orientation: int | None = 1
    #: PNG's transparent colour where samples have 16 bits: red, green, blue, or grey alone.
    transparent: tuple[int, ...] | None = None
    #: Times that the decoder goes over the whole image: scans of a progressive JPEG.
    passes: int = 1


class Parts:
    """Counts the parts of one file.

    Raises:
        ImageTooCostly: `one` is called more than MAX_PARTS times.
    """

    def __init__(self) -> None:
        self._left = MAX_PARTS

    def one(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise ImageTooCostly(f"the file has more than {MAX_PARTS:,} parts")
