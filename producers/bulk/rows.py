"""Rows of a file, each with fields of a request or with what is wrong with it: CSV, JSON on lines, Parquet."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from m3agiqa import jsonl
from m3agiqa.contract import ScoreRequest
from m3agiqa.errors import ConfigError, DataError
from m3agiqa.paths import is_file
from m3agiqa.quoting import PATH_CHARS, quoted
from m3agiqa.tables import open_table

#: What a row may have beside the fields of a request: a file on this disk, and in Parquet the bytes of one.
IMAGE_PATH, IMAGE = "image_path", "image"
COLUMNS = (*ScoreRequest.model_fields, IMAGE_PATH)

#: Bytes of a line of JSON: an image of 8 MiB as a `data:` URL fits in.
_LINE_BYTES = 16 * 2**20
#: Rows of a Parquet file that are decoded at a time.
_ROWS = 200
#: Characters that a message shows of names of columns.
_NAMES_CHARS = 4_000

FORMATS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".parquet": "parquet"}


@dataclass(frozen=True)
class Row:
    """A row: fields of a request, as a stranger wrote them, or what is wrong with it."""

    #: What tells it from the others, in words.
    where: str
    #: How far it is in what there is, of `Rows.total`.
    at: int
    fields: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None


class Rows(NamedTuple):
    """All rows of a place."""

    rows: Iterator[Row]
    #: Lines or rows in all; None for a pipe, which can be read only once.
    total: int | None


@contextmanager
def opened(path: Path, kind: str | None, *, has_prompt: bool) -> Iterator[Rows]:
    """Open a file whose kind is one of `FORMATS`, by default what its name says, else a CSV. A table needs a column
    with images, and one with prompts unless there is another prompt (`has_prompt`).

    Raises:
        DataError: it cannot be read, or is no such file; also while its rows are read.
        ConfigError: a package is missing to read it with.
    """
    kind = kind or FORMATS.get(path.suffix.lower(), "csv")
    if kind == "parquet":
        with _parquet(path, has_prompt) as rows:
            yield rows
    elif kind == "jsonl":
        yield Rows(_json_rows(path), _lines(path))
    else:
        with _csv(path, has_prompt) as rows:
            yield rows


@contextmanager
def _csv(path: Path, has_prompt: bool) -> Iterator[Rows]:
    with open_table(path, ()) as table:
        _check_columns(str(table), table.columns, has_prompt, f"; {table.read_as()}")
        rows = (
            Row(f"line {row.line}", row.line, row.values, row.error)
            if row.error
            else _of_text(f"line {row.line}", row.line, row.values)
            for row in table
        )
        yield Rows(rows, _lines(path))


def _check_columns(place: str, columns: tuple[str, ...], has_prompt: bool, read_as: str = "") -> None:
    if not {"image_url", IMAGE_PATH, IMAGE} & {*columns} or not (has_prompt or "prompt" in columns):
        raise DataError(f"{place} must have the columns prompt and image_url, or {IMAGE_PATH} in its place{read_as}")
    if unknown := set(columns) - {*COLUMNS, IMAGE}:
        names = quoted(", ".join(sorted(unknown)), _NAMES_CHARS)
        raise DataError(f"{place} may have the columns {', '.join(COLUMNS)} and no others, and has {names}")


def _of_text(where: str, at: int, cells: Mapping[str, str]) -> Row:
    """A row of cells. An empty prompt is a prompt; any other empty cell counts as left out."""
    fields: dict[str, Any] = {name: cell for name, cell in cells.items() if cell or name == "prompt"}
    if re.fullmatch("[0-9]", priority := fields.get("priority", "")):
        fields["priority"] = int(priority)
    if "aspects" in fields:
        fields["aspects"] = re.findall(r"[^\s;,]+", fields["aspects"])
    if "metadata" in fields:
        try:
            fields["metadata"] = jsonl.loads(fields["metadata"])
        except DataError as error:
            return Row(where, at, cells, f"metadata: {error}")
    return Row(where, at, fields)


def _json_rows(path: Path) -> Iterator[Row]:
    for number, found in jsonl.each(path, _LINE_BYTES):
        where = f"line {number}"
        yield Row(where, number, error=str(found)) if isinstance(found, DataError) else Row(where, number, found)


@contextmanager
def _parquet(path: Path, has_prompt: bool) -> Iterator[Rows]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ConfigError("a Parquet file takes pyarrow: pip install 'm3agiqa[parquet]'") from None
    name = quoted(path, PATH_CHARS)
    if not is_file(path):
        raise DataError(f"{name}: no file")
    try:
        file = pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{name} is no Parquet file, or is damaged ({type(error).__name__})") from None
    with file:
        _check_columns(name, tuple(file.schema_arrow.names), has_prompt)
        yield Rows(_parquet_rows(file, pyarrow.ArrowException), file.metadata.num_rows)


def _parquet_rows(file: Any, broken: type[Exception]) -> Iterator[Row]:
    """Rows of a file that raises `broken` where it is damaged, which costs the rest of a group of rows."""
    at = last = 0
    for group in range(file.num_row_groups):
        last += file.metadata.row_group(group).num_rows
        try:
            for batch in file.iter_batches(batch_size=_ROWS, row_groups=[group]):
                for place in range(batch.num_rows):
                    at += 1
                    # Alone, as one that cannot be had as Python's values must not cost the others.
                    yield _parquet_row(batch.slice(place, 1), at)
        except (broken, OSError) as error:
            yield Row(f"rows {at + 1} to {last}", last, error=f"the file is damaged there ({type(error).__name__})")
            at = last


def _parquet_row(batch: Any, at: int) -> Row:
    where = f"row {at}"
    try:
        [fields] = batch.to_pylist()
    except (ValueError, OverflowError, TypeError) as error:
        return Row(where, at, error=f"it holds what cannot be read ({type(error).__name__})")
    return Row(where, at, fields)


def _lines(path: Path) -> int | None:
    if not is_file(path):
        return None
    with path.open("rb") as file:
        # Not line by line, as a line may be as long as the file.
        return sum(block.count(b"\n") for block in iter(lambda: file.read(2**20), b""))
