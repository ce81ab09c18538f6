"""Data sets: images with their prompts and human scores.

AGIQA-3K, AIGCIQA2023, AIGIQA-20K and your own share one layout: a folder with `images/`, and `data.csv` with the
columns `name`, `prompt` and one for each label. AIGIQA-20K has `info_train.csv`, `info_val.csv` and `info_test.csv` in
place of `data.csv`, and its images come separately.
The scores of AIGCIQA2023 run from 0 to 100. `train.json`, `val.json` and `test.json` hold conversations.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from m3agiqa.contract import Aspect
from m3agiqa.errors import DataError, M3AGIQAError
from m3agiqa.files import read_image
from m3agiqa.images import DecodedImage
from m3agiqa.quoting import PATH_CHARS, quoted
from m3agiqa.tables import open_table

TABLE = "data.csv"
PARTS = ("train", "val", "test")
IMAGES = "images"

#: Columns that hold an aspect's mean opinion score, as the data sets call them.
LABELS: Mapping[Aspect, tuple[str, ...]] = {
    Aspect.QUALITY: ("mos_quality", "mos", "quality_mos"),
    Aspect.CORRESPONDENCE: ("mos_align", "mos_correspondence", "correspondence_mos"),
    Aspect.AUTHENTICITY: ("mos_authenticity", "authenticity_mos"),
}

#: Stands for a column of groups: each image's file name up to its last underscore, which names the generator in
#: AGIQA-3K.
PREFIX = "prefix"


@dataclass(frozen=True)
class Entry:
    """One line of a table."""

    name: str
    prompt: str
    #: Cells by column, as they stand.
    values: Mapping[str, str]
    #: File and line.
    location: str = ""

    def label(self, column: str, scale: float = 1.0) -> float | None:
        """The number in `column` times `scale`; None where the cell is empty.

        Raises:
            DataError: the cell holds no finite number.
        """
        text = self.values.get(column, "")
        if not text:
            return None
        try:
            number = float(text) * scale
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            comma = "; decimals follow a point" if "," in text else ""
            raise DataError(
                f"{self.location}: {column} is {quoted(text)!r}, which is no number{comma}; leave it empty for no score"
            )
        return number

    def group(self, column: str) -> str | None:
        """The group that `column` names; None where it is empty."""
        return (self.name.rpartition("_")[0] if column == PREFIX else self.values.get(column)) or None


@dataclass(frozen=True)
class DataSet:
    folder: Path
    images: Path
    columns: tuple[str, ...]
    entries: tuple[Entry, ...]
    #: Names of the entries that came from `info_<part>.csv`, by part; empty where there is `data.csv`.
    parts: Mapping[str, tuple[str, ...]]
    #: A sentence for each row that could not be read: where it stands, and what is wrong with it.
    wrong: tuple[str, ...] = ()

    def image(self, name: str) -> Path:
        return self.images / name

    def open(self, name: str) -> DecodedImage:
        """Raises: DataError: the image cannot be read; says which."""
        try:
            return read_image(self.image(name))
        except M3AGIQAError as error:
            raise DataError(f"{name}: {error}; `m3agiqa data check` finds all of that kind") from error

    def only(self, names: Collection[str]) -> DataSet:
        """The data set with the images of these names alone; ignores names that it does not have.

        Raises:
            DataError: it has no image of these names.
        """
        kept = tuple(entry for entry in self.entries if entry.name in names)
        if not kept:
            raise DataError(f"{self.folder} has none of the {len(names)} images that are wanted")
        return replace(self, entries=kept)

    def label_column(self, aspect: Aspect, wanted: str | None = None) -> str:
        """The column with an aspect's scores: `wanted`, or the one that the data sets use.

        Raises:
            DataError: there is no such column; names those that there are.
        """
        candidates = LABELS[aspect] if wanted is None else (wanted.strip().lower(),)
        for column in candidates:
            if column in self.columns:
                return column
        raise DataError(
            f"{self.folder} has no column {' or '.join(candidates)} for {aspect}, only {', '.join(self.columns)}; "
            "name one with --label"
        )

    def check_numbers(self, column: str) -> None:
        """Raises: DataError: a cell of this column is neither a number nor empty; says which."""
        for entry in self.entries:
            entry.label(column)

    def check_group(self, column: str) -> None:
        """Raises: DataError: no such column."""
        if column != PREFIX and column not in self.columns:
            raise DataError(f"{self.folder} has no column {column}, only {', '.join(self.columns)}, or {PREFIX}")


def load_data(folder: Path, images: Path | None = None, *, with_wrong_rows: bool = False) -> DataSet:
    """Read a data set's tables.

    Args:
        folder: where the tables lie.
        images: where the images lie; default `folder/images`.
        with_wrong_rows: list rows that cannot be read in the result's `wrong`, instead of raising.

    Raises:
        DataError: there is no table; or a table cannot be read, lacks `name` or `prompt`, or has a wrong row.
    """
    try:
        files = {path.name for path in folder.iterdir()}
    except (OSError, ValueError) as error:
        raise DataError(f"{quoted(folder, PATH_CHARS)}: {getattr(error, 'strerror', None) or error}") from error
    if TABLE in files:
        tables = {TABLE: folder / TABLE}
    else:
        tables = {part: folder / f"info_{part}.csv" for part in PARTS if f"info_{part}.csv" in files}
    if not tables:
        raise DataError(f"{folder} holds neither {TABLE} nor info_train.csv, info_val.csv, info_test.csv")
    read = {part: _Part.read(path) for part, path in tables.items()}
    wrong = tuple(sentence for part in read.values() for sentence in part.wrong)
    if wrong and not with_wrong_rows:
        more = f", and {len(wrong) - 1} more are wrong" if len(wrong) > 1 else ""
        raise DataError(f"{wrong[0]}{more}; `m3agiqa data check` lists all of that kind")
    return DataSet(
        folder=folder,
        images=images or folder / IMAGES,
        columns=tuple(dict.fromkeys(column for part in read.values() for column in part.columns)),
        entries=tuple(entry for part in read.values() for entry in part.entries),
        parts={name: tuple(entry.name for entry in part.entries) for name, part in read.items() if name != TABLE},
        wrong=wrong,
    )


@dataclass(frozen=True)
class _Part:
    """One table of a data set."""

    columns: tuple[str, ...]
    entries: tuple[Entry, ...]
    wrong: tuple[str, ...]

    @classmethod
    def read(cls, path: Path) -> Self:
        entries, wrong = [], []
        with open_table(path, ("name", "prompt")) as table:
            for row in table:
                location = f"{table}, line {row.line}"
                values = {column: value.strip() for column, value in row.values.items()}
                if row.error is None:
                    entries.append(Entry(values["name"], values["prompt"], values, location))
                else:
                    wrong.append(f"{location}: {row.error}")
        return cls(table.columns, tuple(entries), tuple(wrong))
