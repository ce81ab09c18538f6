"""What a model reads of an image: cut as soon as it is decoded, so that the whole of it need not be kept.

Nothing here needs torch: a process that only decodes has none.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from m3agiqa.contract import ImageInfo
from m3agiqa.errors import ImageTooLarge
from m3agiqa.images import DecodedImage
from m3agiqa.model.slicing import MAX_PATCHES, Grid, Slices, Slicing

#: Pixels of an image that is kept whole beside its slices: 2048 x 2048 and a little. A larger one is kept reduced.
WHOLE_PIXELS = 4_500_000


@dataclass(frozen=True)
class SlicedImage:
    """An image as a model reads it."""

    info: ImageInfo
    slices: Mapping[Grid, Slices]
    #: Bytes of the image in RGB, row by row, from which grids that are not among `slices` are cut; its width, height.
    raw: Any = field(repr=False)
    raw_size: tuple[int, int]

    @property
    def rgb(self) -> Image.Image:
        return Image.frombuffer("RGB", self.raw_size, self.raw, "raw", "RGB", 0, 1)

    @property
    def size_bytes(self) -> int:
        patches: int = sum(patch.nbytes for slices in self.slices.values() for patch in slices.patches)
        return len(self.raw) + patches


@dataclass(frozen=True)
class Cutter:
    """Cuts images as one model's profile asks."""

    slicing: Slicing
    #: Slices at most, while the model describes and as each aspect is scored.
    max_slices: tuple[int, ...]

    def cut(self, image: DecodedImage) -> SlicedImage:
        """Cut an image for its description and its scores. What they seldom need besides, fewer slices where a
        context is short, is left to be cut from the image, or from a smaller copy of a large one.

        Raises:
            ImageTooLarge: its sides are too unequal.
        """
        rgb = image.rgb
        grids = dict.fromkeys(self.slicing.grid(rgb.width, rgb.height, most) for most in self.max_slices)
        slices = cut(self.slicing, rgb, grids)
        if rgb.width * rgb.height > WHOLE_PIXELS:
            rgb = rgb.reduce(math.ceil(math.sqrt(rgb.width * rgb.height / WHOLE_PIXELS)))
        return SlicedImage(image.info, slices, rgb.tobytes(), rgb.size)


def cut(slicing: Slicing, rgb: Image.Image, grids: Iterable[Grid]) -> dict[Grid, Slices]:
    """Slices of an image along each of `grids`.

    Raises:
        ImageTooLarge: its sides are too unequal.
    """
    found = slicing.cut_along(rgb, grids)
    if any(slices.longest > MAX_PATCHES for slices in found.values()):
        raise ImageTooLarge(f"{rgb.width}x{rgb.height}: sides too unequal to be cut into slices")
    return found
