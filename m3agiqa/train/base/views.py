"""Images of a data set on the training device, and views of them, cut as a tower reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate

from m3agiqa.model.slicing import Grid, Slicing
from m3agiqa.pools import threads
from m3agiqa.train.data.dataset import DataSet

_THREADS = 8
#: Factors by which an altered view is shrunk before it is enlarged again, and the deviation of its noise, of 0..255.
_MOST_SHRUNK, _MOST_NOISE = 6.0, 50.0


@dataclass(frozen=True)
class Cut:
    """The overviews and slices of n images of one size."""

    grid: Grid
    #: The overviews, then the first slice of each image, and so on: uint8 [n, patches, 3 * patch * patch] each.
    cells: list[torch.Tensor]
    #: (height, width) in patches of each of `cells`.
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


def random_views(images: torch.Tensor, size: tuple[int, int], generator: torch.Generator) -> torch.Tensor:
    """A part of each image, [n, 3, height, width], wherever it lies and half of them mirrored.

    Nothing is resized: sharpness, noise and blocks stay what they were when somebody scored the image.
    """
    width, height = size
    count = len(images)
    room = (images.shape[2] - height, images.shape[3] - width)
    tops, lefts = (torch.randint(most + 1, (count,), generator=generator).tolist() for most in room)
    views = torch.stack(
        [
            image[:, top : top + height, left : left + width]
            for image, top, left in zip(images, tops, lefts, strict=True)
        ]
    )
    mirrored = torch.randint(2, (count,), generator=generator).bool().to(views.device)
    return torch.where(mirrored[:, None, None, None], views.flip(-1), views)


def altered(views: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Views [n, 3, height, width] that nobody scored: blended with one another, patched together, or degraded.

    A network that is to agree with its teacher about them, too, learns what the teacher sees in any image and not
    what it says of some.
    """
    height, width = views.shape[-2:]
    kind = int(torch.randint(3, (), generator=generator))
    degree = torch.rand(len(views), 1, 1, 1, generator=generator).to(views.device)
    if kind == 0:
        made = torch.lerp(views.float(), views.roll(1, 0).float(), degree / 2)
    elif kind == 1:
        # A rectangle with between a quarter and three quarters of either side.
        top, left, rows, columns = torch.rand(4, generator=generator).tolist()
        rows, columns = round(height * (0.25 + rows / 2)), round(width * (0.25 + columns / 2))
        top, left = round((height - rows) * top), round((width - columns) * left)
        made = views.clone()
        part = (..., slice(top, top + rows), slice(left, left + columns))
        made[part] = views.roll(1, 0)[part]
        return made
    else:
        factor = _MOST_SHRUNK ** float(torch.rand((), generator=generator))
        size = (max(1, round(height / factor)), max(1, round(width / factor)))
        small = interpolate(views.float(), size, mode="bilinear", antialias=True)
        made = interpolate(small, (height, width), mode="bicubic")
        noise = torch.empty_like(made).normal_(generator=_on(views.device, generator))
        made = made + noise * degree.square() * _MOST_NOISE
    return made.round().clamp(0, 255).to(torch.uint8)


def _on(device: torch.device, generator: torch.Generator) -> torch.Generator:
    """A generator of this device's that the given one seeds."""
    return torch.Generator(device).manual_seed(int(torch.randint(1 << 30, (), generator=generator)))


def resized(pixels: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Uint8 [n, 3, ..] to uint8 [n, 3, height, width], bicubic with antialiasing as Pillow does it."""
    width, height = size
    if pixels.shape[-2:] == (height, width):
        return pixels
    bigger = interpolate(pixels.float(), (height, width), mode="bicubic", antialias=True)
    return bigger.round_().clamp_(0, 255).to(torch.uint8)


def cut(pixels: torch.Tensor, slicing: Slicing, max_slices: int) -> Cut:
    """Cut images, uint8 [n, 3, height, width], as `slicing` cuts an image of that size."""
    height, width = pixels.shape[-2:]
    grid = slicing.grid(width, height, max_slices)
    cells = [resized(pixels, slicing.overview(width, height, grid))]
    if grid.slices:
        cell_width, cell_height = slicing.cell(width, height, grid)
        whole = resized(pixels, (cell_width * grid.columns, cell_height * grid.rows))
        cells += [cell for row in whole.split(cell_height, dim=2) for cell in row.split(cell_width, dim=3)]
    return Cut(
        grid=grid,
        cells=[_patches(cell, slicing.patch) for cell in cells],
        sizes=[(cell.shape[2] // slicing.patch, cell.shape[3] // slicing.patch) for cell in cells],
    )


def _patches(cells: torch.Tensor, patch: int) -> torch.Tensor:
    """[n, 3, height, width] to [n, patches, 3 * patch * patch], row by row."""
    count, _, height, width = cells.shape
    split = cells.reshape(count, 3, height // patch, patch, width // patch, patch)
    return split.permute(0, 2, 4, 1, 3, 5).reshape(count, -1, 3 * patch * patch)
