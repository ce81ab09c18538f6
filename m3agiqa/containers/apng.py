"""The animation in a PNG: how many frames it has, and the first of them."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from m3agiqa.errors import ImageUnreadable


@dataclass(frozen=True)
class Frame:
    """Where an fcTL chunk puts the frame behind it, pixels."""

    width: int
    height: int
    left: int
    top: int

    def fits(self, width: int, height: int) -> bool:
        return 0 < self.width <= width - self.left and 0 < self.height <= height - self.top


@dataclass
class FirstFrame:
    """The first frame, gathered from the fcTL and fdAT chunks, which share one numbering."""

    #: Whether the image data is that frame, and not a stand-in for viewers that know no animations.
    in_image_data: bool = False
    #: Content of the frame's own chunks.
    pixels: list[bytes] = field(default_factory=list)
    _frame: Frame | None = None
    _controls: int = 0
    _number: int = 0

    def add(self, kind: bytes, content: bytes, *, sound: bool, before_image_data: bool) -> None:
        if self._controls == 2:  # the second frame has begun
            return
        in_order = content[:4] == struct.pack(">I", self._number)
        self._number += 1
        if kind == b"fcTL" and sound and in_order and len(content) == 26:
            self._controls += 1
            if self._controls == 1:
                self._frame = Frame(*struct.unpack_from(">IIII", content, 4))
                self.in_image_data = before_image_data
        elif kind == b"fdAT" and in_order and self._controls == 1:
            self.pixels.append(content[4:])

    def on(self, width: int, height: int) -> Frame:
        """Where the frame lies on an image of this size.

        Raises:
            ImageUnreadable: there is no whole frame, or it reaches beyond the image.
        """
        frame = self._frame
        if frame is not None and self.in_image_data and frame == Frame(width, height, 0, 0):
            return frame
        if frame is not None and not self.in_image_data and self.pixels and frame.fits(width, height):
            return frame
        raise ImageUnreadable("broken PNG (an animation without its first frame)")


def frame_count(control: bytes) -> int:
    """Frames that an acTL chunk announces, 0 if there is no such chunk."""
    return int(struct.unpack_from(">I", control)[0]) if len(control) == 8 else 0
