"""Encodes images as the embeddings that stand for them in a prompt, each made once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import torch

from m3agiqa.cutting import SlicedImage, cut
from m3agiqa.engine.ops import moved, pinned
from m3agiqa.model.slicing import Grid, Slices, Slicing
from m3agiqa.model.vision import Tower

#: Slices that run through a vision tower together; they bound the memory of its layers.
_SLICES_AT_ONCE = 32


class EncodedImage:
    """One image's slices and embeddings, each made once per grid and tower."""

    def __init__(self, image: SlicedImage, slicing: Slicing, device: torch.device) -> None:
        self._slicing, self._device = slicing, device
        self.width, self.height = image.info.width, image.info.height
        self._image = image
        self._slices = {grid: self._pinned(slices) for grid, slices in image.slices.items()}
        self._moved: dict[Grid, Slices] = {}
        self._embeddings: dict[tuple[int, Grid], torch.Tensor] = {}

    def grid(self, max_slices: int) -> Grid:
        return self._slicing.grid(self.width, self.height, max_slices)

    def cut(self, grid: Grid) -> Slices:
        """Slices along `grid`.

        Raises:
            ImageTooLarge: the image's sides are too unequal.
        """
        if grid not in self._slices:
            self._slices[grid] = self._pinned(cut(self._slicing, self._image.rgb, [grid])[grid])
        return self._slices[grid]

    def _pinned(self, slices: Slices) -> Slices:
        tensors = (torch.from_numpy(patch) for patch in slices.patches)
        return replace(slices, patches=tuple(pinned(tensor, self._device) for tensor in tensors))

    def on_device(self, grid: Grid) -> Slices:
        """Slices along `grid`, their patches moved once for all towers."""
        if grid not in self._moved:
            slices = self.cut(grid)
            self._moved[grid] = replace(slices, patches=tuple(moved(each, self._device) for each in slices.patches))
        return self._moved[grid]

    def embeddings(self, tower: Tower, grid: Grid) -> torch.Tensor:
        """[1 + slices, query_num, hidden]."""
        if (id(tower), grid) not in self._embeddings:
            self._embeddings[id(tower), grid] = tower([self.on_device(grid)])[0]
        return self._embeddings[id(tower), grid]

    @staticmethod
    def encode_together(wanted: Iterable[_Wanted]) -> None:
        """Encode many images ahead of use; images padded to the same length run together."""
        missing = [(image, tower, grid) for image, tower, grid in wanted if (id(tower), grid) not in image._embeddings]
        batches: dict[tuple[int, int], list[_Wanted]] = {}
        for image, tower, grid in missing:
            batches.setdefault((id(tower), image.cut(grid).longest), []).append((image, tower, grid))
        for batch in batches.values():
            for part in _slice_batches(batch):
                tower = part[0][1]
                encoded = tower([image.on_device(grid) for image, _, grid in part])
                for (image, _, grid), embeddings in zip(part, encoded, strict=True):
                    image._embeddings[id(tower), grid] = embeddings


#: An image, and the tower and grid that it is to be encoded by.
_Wanted = tuple[EncodedImage, Tower, Grid]


def _slice_batches(
    batch: Sequence[tuple[EncodedImage, Tower, Grid]],
) -> Iterator[list[tuple[EncodedImage, Tower, Grid]]]:
    """Batches of about _SLICES_AT_ONCE slices, with at least one image each."""
    part: list[_Wanted] = []
    slices = 0
    for image, tower, grid in batch:
        if part and slices + 1 + grid.slices > _SLICES_AT_ONCE:
            yield part
            part, slices = [], 0
        part.append((image, tower, grid))
        slices += 1 + grid.slices
    yield part
