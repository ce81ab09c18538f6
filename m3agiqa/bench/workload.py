"""What a batch came to, in numbers that its time can be held against."""

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
    """Rows are images times aspects; those that failed are left out."""

    #: Slices of every image and tower, the overview with them, and patches of each, padding counted.
    encoded: tuple[tuple[int, int], ...]
    #: The same of what was sliced again to fit the head's context.
    encoded_again: tuple[tuple[int, int], ...]
    #: Tokens of each row's prompt.
    prompts: tuple[int, ...]
    #: Tokens each row's description was written in, the end token with them; 0 where it was given.
    generated: tuple[int, ...]
    #: Tokens of each row's scoring conversation that were known from the prompt, and those read on from there.
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
            generated=tuple(row.generated for row in scored),
            read=tuple((row.known, len(row.conversation.ids) - row.known) for row in scored),
        )


def _encoding(row: Row, towers: Mapping[Aspect, Tower], grid: Grid) -> tuple[EncodedImage, int, Grid]:
    return row.image, id(towers[row.aspect]), grid


def _size(image: EncodedImage, grid: Grid) -> tuple[int, int]:
    return 1 + grid.slices, image.cut(grid).longest
