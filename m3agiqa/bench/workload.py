"""Counts the work in a batch, so that its time can be compared with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from m3agiqa.contract import Aspect
from m3agiqa.engine.encoding import EncodedImage
from m3agiqa.engine.rows import Row, alive
from m3agiqa.model.slicing import Grid
from m3agiqa.model.vision import Tower


@dataclass(frozen=True)
class Work:
    """Slices and tokens of a batch's rows (images times aspects); failed rows are left out."""

    #: (slices, patches of each) for every image and tower; slices include the overview, patches the padding.
    encoded: tuple[tuple[int, int], ...]
    #: The same for images that were sliced again to fit the head's context.
    encoded_again: tuple[tuple[int, int], ...]
    #: Tokens of each row's prompt.
    prompts: tuple[int, ...]
    #: Tokens that each row's description took to write, including the end token; 0 for a given description.
    generated: tuple[int, ...]
    #: Tokens of each row's scoring conversation: those known from the prompt, and those read after them.
    read: tuple[tuple[int, int], ...]

    @classmethod
    def from_rows(cls, rows: Sequence[Row], towers: Mapping[Aspect, Tower]) -> Self:
        scored = alive(rows)
        first = {_encoding(row, towers, row.prompt.grid) for row in scored}
        again = {_encoding(row, towers, row.conversation.grid) for row in scored if row.known == 0} - first
        return cls(
            encoded=tuple(_size(image, grid) for image, _, grid in first),
            encoded_again=tuple(_size(image, grid) for image, _, grid in again),
            prompts=tuple(len(row.prompt.ids) for row in scored),
            generated=tuple(len(row.generated) for row in scored),
            read=tuple((row.known, len(row.conversation.ids) - row.known) for row in scored),
        )


def _encoding(row: Row, towers: Mapping[Aspect, Tower], grid: Grid) -> tuple[EncodedImage, int, Grid]:
    return row.image, id(towers[row.aspect]), grid


def _size(image: EncodedImage, grid: Grid) -> tuple[int, int]:
    return 1 + grid.slices, image.cut(grid).longest
