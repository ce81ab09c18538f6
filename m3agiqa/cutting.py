"""Cuts an image into the slices that a model reads, as soon as it is decoded, so that a large image need not be kept.

Nothing here needs torch: a process that only decodes does without it.
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

#: Most pixels of an image that is kept whole beside its slices, a little over 2048 x 2048. A larger one is reduced.
WHOLE_PIXELS = 4_500_000


@dataclass(frozen=True)
class SlicedImage:
    """An image as a model reads it."""

    info: ImageInfo
    slices: Mapping[Grid, Slices]
    #: The image's RGB bytes, row by row, and its width and height. Grids that `slices` lacks are cut from them.
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
    #: Most slices in the describing pass, and in the scoring pass of each aspect.
    max_slices: tuple[int, ...]

    def cut(self, image: DecodedImage) -> SlicedImage:
        """Cut an image for its description and its scores.

        A short context may need fewer slices; the engine then cuts them from the image, or from the smaller copy that
        is kept of a large one.

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
