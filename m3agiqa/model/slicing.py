"""Cuts an image into what the vision tower reads: an overview and a grid of slices, each as a row of patches."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import numpy as np
from PIL import Image

#: Most patches of one slice: the tower's position table has 70 x 70 entries.
MAX_PATCHES = 4900


@dataclass(frozen=True)
class Grid:
    """How an image is cut. (0, 0) is the overview alone."""

    columns: int
    rows: int

    @property
    def slices(self) -> int:
        return self.columns * self.rows


@dataclass(frozen=True)
class Slices:
    """The overview and the slices of one image.

    `patches` are uint8 [3, patch, patch * L], overview first, then the grid row by row: arrays as they are cut, tensors
    once they are on a device. `sizes` are (height, width) in patches, L = height * width.
    """

    grid: Grid
    patches: tuple[Any, ...]
    sizes: tuple[tuple[int, int], ...]

    @property
    def longest(self) -> int:
        """Patches of the longest slice, to which the others are padded."""
        return max(height * width for height, width in self.sizes)


@dataclass(frozen=True)
class Slicing:
    """How a base wants its images cut; the defaults are MiniCPM-Llama3-V-2.5's."""

    #: Side of a patch, pixels.
    patch: int = 14
    #: A slice holds about this many pixels, squared.
    scale: int = 448

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Read the slicing from a MiniCPM-V `config.json`."""
        scale = config.get("slice_config", {}).get("scale_resolution", cls.scale)
        return cls(patch=config["vision_config"]["patch_size"], scale=scale)

    def grid(self, width: int, height: int, max_slices: int) -> Grid:
        """The grid whose proportions are nearest the image's, among those with one slice fewer, as many, or one more
        than its area asks for.

        Ties go to the first candidate, in float64 order, as in MiniCPM-V's `slice_image`.
        """
        wanted = min(math.ceil(width * height / self.scale**2), max_slices)
        if wanted <= 1:
            return Grid(0, 0)
        counts = [count for count in (wanted - 1, wanted, wanted + 1) if count != 1 and count <= max_slices]
        candidates = [
            (columns, count // columns) for count in counts for columns in range(1, count + 1) if count % columns == 0
        ]
        proportions = math.log(width / height)
        return Grid(*min(candidates, key=lambda grid: abs(proportions - math.log(grid[0] / grid[1]))))

    def overview(self, width: int, height: int, grid: Grid) -> tuple[int, int]:
        """Width and height of an image's overview, pixels."""
        return self._fit(width, height, upscale=grid.slices == 0)

    def cell(self, width: int, height: int, grid: Grid) -> tuple[int, int]:
        """Width and height of each slice of an image along `grid`, pixels."""
        return self._fit(
            _multiple(width, grid.columns) / grid.columns, _multiple(height, grid.rows) / grid.rows, upscale=True
        )

    def cut(self, rgb: Image.Image, grid: Grid) -> Slices:
        """Cut an image along `grid`, as `self.grid` gave it for this image's size."""
        return self.cut_along(rgb, [grid])[grid]

    def cut_along(self, rgb: Image.Image, grids: Iterable[Grid]) -> dict[Grid, Slices]:
        """Cut an image along several grids; an overview that they share is made once."""
        overviews: dict[tuple[int, int], Image.Image] = {}
        cut: dict[Grid, Slices] = {}
        for grid in grids:
            size = self.overview(*rgb.size, grid)
            if size not in overviews:
                overviews[size] = rgb.resize(size, Image.Resampling.BICUBIC)
            cut[grid] = self._slices(rgb, grid, overviews[size])
        return cut

    def _slices(self, rgb: Image.Image, grid: Grid, overview: Image.Image) -> Slices:
        cells = [overview, *self._cells(rgb, grid)] if grid.slices else [overview]
        return Slices(
            grid=grid,
            patches=tuple(self._patches(cell) for cell in cells),
            sizes=tuple((cell.height // self.patch, cell.width // self.patch) for cell in cells),
        )

    def _cells(self, rgb: Image.Image, grid: Grid) -> list[Image.Image]:
        width, height = self.cell(*rgb.size, grid)
        resized = rgb.resize((width * grid.columns, height * grid.rows), Image.Resampling.BICUBIC)
        lefts = range(0, resized.width + 1, width)
        tops = range(0, resized.height + 1, height)
        return [
            resized.crop((left, top, right, bottom))
            for top, bottom in pairwise(tops)
            for left, right in pairwise(lefts)
        ]

    def _fit(self, width: float, height: float, *, upscale: bool) -> tuple[int, int]:
        """Sides of about scale^2 pixels in all, the proportions kept, each a multiple of a patch's."""
        if upscale or width * height > self.scale**2:
            ratio = width / height
            height = int(self.scale / math.sqrt(ratio))
            width = int(height * ratio)
        return _multiple(width, self.patch), _multiple(height, self.patch)

    def _patches(self, image: Image.Image) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """RGB to uint8 [3, patch, patch * L]: patches side by side, row by row."""
        rows, columns = image.height // self.patch, image.width // self.patch
        pixels = np.asarray(image).reshape(rows, self.patch, columns, self.patch, 3).transpose(4, 1, 0, 2, 3)
        return np.ascontiguousarray(pixels).reshape(3, self.patch, -1)


def _multiple(length: float, divisor: int) -> int:
    return max(round(length / divisor) * divisor, divisor)
