"""Images of a data set on the training device, and views of them, cut as a tower reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate

from m3agiqa.model.slicing import Grid, Slicing
from m3agiqa.pools import threads
from m3agiqa.train.data.dataset import DataSet

_THREADS = 8


@dataclass(frozen=True)
class Cut:
    """The overviews and slices of images of one size; image after image, overview first."""

    grid: Grid
    #: Uint8 [3, patch, patch * L] each.
    patches: list[torch.Tensor]
    #: (height, width) in patches of one image's.
    sizes: list[tuple[int, int]]


def load_images(
    data: DataSet,
    names: Sequence[str],
    side: int,
    device: torch.device,
    progress: Callable[[Iterable[torch.Tensor]], Iterable[torch.Tensor]],
) -> torch.Tensor:
    """Uint8 RGB [n, 3, side, side] on `device`: what is not that size is resized.

    Raises:
        DataError: an image cannot be read; says which.
    """

    def load(name: str) -> torch.Tensor:
        rgb = data.open(name).rgb
        if rgb.size != (side, side):
            rgb = rgb.resize((side, side), Image.Resampling.BICUBIC)
        return torch.from_numpy(np.array(rgb)).permute(2, 0, 1)

    images = torch.empty(len(names), 3, side, side, dtype=torch.uint8, device=device)
    with threads(_THREADS) as pool:
        for number, image in enumerate(progress(pool.map(load, names))):
            images[number] = image.to(device)
    return images


@dataclass(frozen=True)
class Places:
    """Where views of images are taken: their corners, one an image and all on one raster, and which are mirrored."""

    corners: list[tuple[int, int]]
    mirrored: torch.Tensor

    @classmethod
    def random(cls, count: int, room: tuple[int, int], generator: torch.Generator) -> Self:
        """`room`: steps of the raster by which a view may lie lower and farther right."""
        tops, lefts = (torch.randint(most + 1, (count,), generator=generator).tolist() for most in room)
        return cls(list(zip(tops, lefts, strict=True)), torch.randint(2, (count,), generator=generator).bool())

    def take(self, images: torch.Tensor, size: tuple[int, int], step: int) -> torch.Tensor:
        """Views [n, .., height, width] of `images` [n, .., any, any], in which a step of the raster is `step` places.

        Nothing is resized: sharpness, noise and blocks stay what they were when somebody scored the image.
        """
        width, height = size
        views = torch.stack(
            [
                image[..., top * step : top * step + height, left * step : left * step + width]
                for image, (top, left) in zip(images, self.corners, strict=True)
            ]
        )
        return torch.where(self.mirrored.to(views.device)[:, None, None, None], views.flip(-1), views)


def resized(pixels: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Uint8 [n, 3, ..] to uint8 [n, 3, height, width], bicubic with antialiasing as Pillow does it."""
    width, height = size
    if pixels.shape[-2:] == (height, width):
        return pixels
    bigger = interpolate(pixels.float(), (height, width), mode="bicubic", antialias=True)
    return bigger.round_().clamp_(0, 255).to(torch.uint8)


def cut(pixels: torch.Tensor, slicing: Slicing, max_slices: int) -> Cut:
    """Cut images, uint8 [n, 3, height, width], as `slicing` cuts an image of that size."""
    count, _, height, width = pixels.shape
    grid = slicing.grid(width, height, max_slices)
    cells = [resized(pixels, slicing.overview(width, height, grid))]
    if grid.slices:
        cell_width, cell_height = slicing.cell(width, height, grid)
        whole = resized(pixels, (cell_width * grid.columns, cell_height * grid.rows))
        cells += [
            cell
            for row in whole.split(cell_height, dim=2)
            for cell in row.split(cell_width, dim=3)
        ]  # fmt: skip
    rows_of_patches = [_patches(cell, slicing.patch) for cell in cells]
    return Cut(
        grid=grid,
        patches=[rows[number] for number in range(count) for rows in rows_of_patches],
        sizes=[(cell.shape[2] // slicing.patch, cell.shape[3] // slicing.patch) for cell in cells],
    )


def _patches(cells: torch.Tensor, patch: int) -> torch.Tensor:
    """[n, 3, height, width] to [n, 3, patch, patch * L]: patches side by side, row by row."""
    count, _, height, width = cells.shape
    split = cells.reshape(count, 3, height // patch, patch, width // patch, patch)
    return split.permute(0, 1, 3, 2, 4, 5).reshape(count, 3, patch, -1)
