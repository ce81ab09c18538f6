"""Data sets: pictures with their prompts and human scores.

One layout holds for AGIQA-3K, AIGCIQA2023, AIGIQA-20K and your own: a folder with `images/`, and `data.csv` with the
columns `name`, `prompt` and one a label. AIGIQA-20K has `info_train.csv`, `info_val.csv` and `info_test.csv` in place
of `data.csv`, and its pictures come separately. `train.json`, `val.json` and `test.json` hold conversations.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from m3agiqa.contract import Aspect
from m3agiqa.errors import M3AGIQAError, RequestInvalid
from m3agiqa.files import read_picture
from m3agiqa.images import Picture

TABLE = "data.csv"
PARTS = ("train", "val", "test")
IMAGES = "images"

#: Columns that hold an aspect's mean opinion score, as the data sets call them.
LABELS: Mapping[Aspect, tuple[str, ...]] = {
    Aspect.QUALITY: ("mos_quality", "mos"),
    Aspect.CORRESPONDENCE: ("mos_align", "mos_correspondence"),
    Aspect.AUTHENTICITY: ("mos_authenticity",),
}

#: Name of a group's column that is made: the picture's file name up to its last underscore, which names the generator
#: in AGIQA-3K.
PREFIX = "prefix"


@dataclass(frozen=True)
class Entry:
    """One line of a table."""

    name: str
    prompt: str
    #: All columns, as they stand.
    values: Mapping[str, str]

    def label(self, column: str, scale: float = 1.0) -> float | None:
        """The number in `column` times `scale`, None where there is none or no finite one."""
        try:
            number = float(self.values[column]) * scale
        except (KeyError, ValueError):
            return None
        return number if math.isfinite(number) else None

    def group(self, column: str) -> str:
        return self.name.rpartition("_")[0] or self.name if column == PREFIX else self.values[column]


@dataclass(frozen=True)
class DataSet:
    folder: Path
    images: Path
    columns: tuple[str, ...]
    entries: tuple[Entry, ...]
    #: Names of the entries that came from `info_<part>.csv`, by part; empty where there is `data.csv`.
    parts: Mapping[str, tuple[str, ...]]

    def picture(self, name: str) -> Path:
        return self.images / name

    def open(self, name: str) -> Picture:
        """Raises: RequestInvalid: the picture cannot be read; says which."""
        try:
            return read_picture(self.picture(name))
        except M3AGIQAError as error:
            raise RequestInvalid(f"{name}: {error}; `m3agiqa data check` finds all of that kind") from error

    def only(self, names: Collection[str]) -> DataSet:
        """Its pictures of these names; names that it does not have are passed over.

        Raises:
            RequestInvalid: it has none of them.
        """
        kept = tuple(entry for entry in self.entries if entry.name in names)
        if not kept:
            raise RequestInvalid(f"{self.folder} has none of the {len(names)} pictures that are wanted")
        return replace(self, entries=kept)

    def label_column(self, aspect: Aspect, wanted: str | None = None) -> str:
        """The column with an aspect's scores: `wanted`, or the one that the data sets use.

        Raises:
            RequestInvalid: there is none; names the columns there are.
        """
        candidates = LABELS[aspect] if wanted is None else (wanted,)
        for column in candidates:
            if column in self.columns:
                return column
        raise RequestInvalid(
            f"{self.folder} has no column {' or '.join(candidates)} for {aspect}, only {', '.join(self.columns)}; "
            "name one with --label"
        )

    def check_group(self, column: str) -> None:
        """Raises: RequestInvalid: no such column."""
        if column != PREFIX and column not in self.columns:
            raise RequestInvalid(f"{self.folder} has no column {column}, only {', '.join(self.columns)}, or {PREFIX}")


def load_data(folder: Path, images: Path | None = None) -> DataSet:
    """Read a data set's tables. Pictures are looked for in `images`, or `folder/images`.

    Raises:
        RequestInvalid: no table, or one that cannot be read or lacks `name` or `prompt`.
    """
    tables = {TABLE: folder / TABLE}
    if not tables[TABLE].is_file():
        tables = {part: path for part in PARTS if (path := folder / f"info_{part}.csv").is_file()}
    if not tables:
        raise RequestInvalid(f"{folder} holds neither {TABLE} nor info_train.csv, info_val.csv, info_test.csv")
    read = {part: _read_table(path) for part, path in tables.items()}
    return DataSet(
        folder=folder,
        images=images or folder / IMAGES,
        columns=tuple(dict.fromkeys(column for columns, _ in read.values() for column in columns)),
        entries=tuple(entry for _, entries in read.values() for entry in entries),
        parts={part: tuple(entry.name for entry in entries) for part, (_, entries) in read.items() if part != TABLE},
    )


def _read_table(path: Path) -> tuple[Sequence[str], list[Entry]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restval="")
            columns = [column.strip() for column in reader.fieldnames or ()]
            reader.fieldnames = columns
            if not {"name", "prompt"} <= set(columns):
                raise RequestInvalid(f"{path} must have the columns name and prompt in its first line")
            rows = [{key: value.strip() for key, value in row.items() if key is not None} for row in reader]
    except OSError as error:
        raise RequestInvalid(f"{path}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise RequestInvalid(f"{path} is no CSV file in UTF-8 ({type(error).__name__})") from error
    return columns, [Entry(row["name"], row["prompt"], row) for row in rows]
