"""A picture to what the vision tower reads: an overview, a grid of slices, each as a row of patches."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from PIL import Image

#: Side of a patch, pixels.
PATCH = 14
#: A slice holds about this many pixels, squared.
SCALE = 448
#: Patches of one slice at most: the tower's position table has 70 x 70.
MAX_PATCHES = 4900


@dataclass(frozen=True)
class Grid:
    """How a picture is cut. (0, 0) is the overview alone."""

    columns: int
    rows: int

    @property
    def slices(self) -> int:
        return self.columns * self.rows


@dataclass(frozen=True)
class Slices:
    """The overview and the slices of one picture.

    `patches` are uint8 [3, 14, 14 * L], overview first, then the grid row by row; `sizes` are (height, width) in
    patches, L = height * width.
    """

    grid: Grid
    patches: tuple[torch.Tensor, ...]
    sizes: tuple[tuple[int, int], ...]

    @property
    def longest(self) -> int:
        """Patches of the longest, to which the others are padded."""
        return max(height * width for height, width in self.sizes)


def choose_grid(width: int, height: int, max_slices: int) -> Grid:
    """The grid whose proportions are nearest the picture's, among those with one slice fewer, as many, or one more than
    its area asks for.

    Ties go to the first candidate, in float64 order, as in MiniCPM-V's `slice_image`.
    """
    wanted = min(math.ceil(width * height / SCALE**2), max_slices)
    if wanted <= 1:
        return Grid(0, 0)
    counts = [count for count in (wanted - 1, wanted, wanted + 1) if count != 1 and count <= max_slices]
    candidates = [
        (columns, count // columns) for count in counts for columns in range(1, count + 1) if count % columns == 0
    ]
    proportions = math.log(width / height)
    return Grid(*min(candidates, key=lambda grid: abs(proportions - math.log(grid[0] / grid[1]))))


def slice_picture(rgb: Image.Image, grid: Grid) -> Slices:
    """Cut a picture along `grid`, as `choose_grid` gave it for this picture's size."""
    overview = rgb.resize(
        _fit(rgb.width, rgb.height, upscale=grid.slices == 0),
        Image.Resampling.BICUBIC,
    )
    cells = [overview, *_cut(rgb, grid)] if grid.slices else [overview]
    return Slices(
        grid=grid,
        patches=tuple(_patches(cell) for cell in cells),
        sizes=tuple((cell.height // PATCH, cell.width // PATCH) for cell in cells),
    )


def _cut(rgb: Image.Image, grid: Grid) -> list[Image.Image]:
    cell_width, cell_height = _fit(
        _multiple(rgb.width, grid.columns) / grid.columns,
        _multiple(rgb.height, grid.rows) / grid.rows,
        upscale=True,
    )
    resized = rgb.resize((cell_width * grid.columns, cell_height * grid.rows), Image.Resampling.BICUBIC)
    lefts = range(0, resized.width + 1, cell_width)
    tops = range(0, resized.height + 1, cell_height)
    return [
        resized.crop((left, top, right, bottom)) for top, bottom in pairwise(tops) for left, right in pairwise(lefts)
    ]


def _fit(width: float, height: float, *, upscale: bool) -> tuple[int, int]:
    """Sides of about SCALE^2 pixels in all, the proportions kept, each a multiple of PATCH."""
    if upscale or width * height > SCALE**2:
        ratio = width / height
        height = int(SCALE / math.sqrt(ratio))
        width = int(height * ratio)
    return _multiple(width, PATCH), _multiple(height, PATCH)


def _multiple(length: float, divisor: int) -> int:
    return max(round(length / divisor) * divisor, divisor)


def _patches(image: Image.Image) -> torch.Tensor:
    """RGB to uint8 [3, PATCH, PATCH * L]: patches side by side, row by row."""
    rows, columns = image.height // PATCH, image.width // PATCH
    pixels = torch.from_numpy(np.array(image)).view(rows, PATCH, columns, PATCH, 3)
    return pixels.permute(4, 1, 0, 2, 3).reshape(3, PATCH, -1)


def normalise(patches: torch.Tensor) -> torch.Tensor:
    """Uint8 to float32 in [-1, 1], as the original does it."""
    return (patches.float().div(255) - 0.5) / 0.5
