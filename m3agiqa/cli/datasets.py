"""Loads the data set of a command that works image by image, and may leave some out; training and measuring may not."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from m3agiqa.errors import DataError

if TYPE_CHECKING:
    from m3agiqa.train.data.dataset import DataSet

#: Wrong rows that are shown.
_SHOWN = 3


def load(folder: Path, images: Path | None) -> DataSet:
    """Read a data set without the rows that cannot be read, which are shown on stderr.

    Raises:
        DataError: as `load_data`, or no row can be read.
    """
    from m3agiqa.train.data.dataset import load_data

    data = load_data(folder, images, with_wrong_rows=True)
    if data.wrong and not data.entries:
        raise DataError(f"{data.wrong[0]}; no row of {folder} can be read")
    for sentence in data.wrong[:_SHOWN]:
        print(f"left out: {sentence}", file=sys.stderr)
    if len(data.wrong) > _SHOWN:
        print(f"left out: {len(data.wrong) - _SHOWN} more rows; `m3agiqa data check` lists all", file=sys.stderr)
    return data
