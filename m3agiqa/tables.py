"""Tables of users: CSV files, read row by row; a row that cannot be read is reported, never skipped.

Capitals in a column's name, and spaces around it, do not matter. The first line shows whether commas, semicolons or
tabs separate cells. UTF-8 and UTF-16 may begin with a byte order mark. Cells are taken as they stand.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from m3agiqa.errors import DataError
from m3agiqa.inputs import opened
from m3agiqa.quoting import PATH_CHARS, quoted

#: Separators of cells, with their names.
SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab"}

#: Characters of a first line, at most; a file without line ends is no table.
_HEADER_CHARS = 65_536
#: Characters that a message shows of the column names.
_SHOWN_CHARS = 240
#: Replaces a byte that is no text, so that only its row is wrong.
_NO_TEXT = "\udcff"
_NO_TEXT_ERRORS = "m3agiqa.tables"
_UNUSABLE = re.compile("[\ud800-\udfff]")


def _marked(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return _NO_TEXT, error.end


codecs.register_error(_NO_TEXT_ERRORS, _marked)


@dataclass(frozen=True)
class Row:
    """A row: its cells by column, or what is wrong with it."""

    #: Line that the row begins on, counted from 1.
    line: int
    values: Mapping[str, str] = field(default_factory=dict)
    error: str | None = None


class Table:
    """An open table; iterating reads its rows, once."""

    def __init__(self, path: Path, file: TextIO) -> None:
        """Raises: DataError: the first line names no columns."""
        self.path = path
        self._lines = _Lines(file)
        first = self._lines.first()
        self.separator = max(SEPARATORS, key=lambda separator: len(_split(first, separator)))
        self._reader = csv.reader(
            self._lines, delimiter=self.separator, strict=True, skipinitialspace=_is_spaced(first, self.separator)
        )
        try:
            self._header = [name.strip().lower() for name in next(self._reader, ())]
        except csv.Error as error:
            raise DataError(f"{self} is no CSV file: quotes in its first line do not match") from error
        self.columns = tuple(name for name in self._header if name)
        if _is_no_text(self.columns) or len(first) >= _HEADER_CHARS:
            raise DataError(f"{self} is no CSV file in UTF-8 or UTF-16")
        if twice := sorted({name for name in self.columns if self.columns.count(name) > 1}):
            raise DataError(f"{self} names a column twice: {quoted(', '.join(twice), _SHOWN_CHARS)}")

    def __str__(self) -> str:
        return quoted(self.path, PATH_CHARS)

    def read_as(self) -> str:
        """A phrase that says how the first line was read."""
        if not self.columns:
            return "it is empty"
        names = quoted(" | ".join(self.columns), _SHOWN_CHARS)
        return f"the first line was read as {names} (separator: {SEPARATORS[self.separator]})"

    def __iter__(self) -> Iterator[Row]:
        """Yield the rows in order, without blank lines.

        A wrong row of several lines may have swallowed other rows, so reading goes on with its second line.

        Raises:
            DataError: the rest of the file cannot be read.
        """
        while True:
            line = self._lines.begin_row()
            try:
                cells = next(self._reader, None)
            except csv.Error as error:
                yield Row(line, error=self._unmatched(error))
                continue
            except OSError as error:
                raise DataError(f"{self}: {error.strerror}") from error
            if cells is None:
                return
            if len(cells) == len(self._header):
                yield self._row(line, cells)
            elif len(cells) > 1 or "".join(cells).strip():
                yield Row(line, error=self._miscounted(cells))

    def _row(self, line: int, cells: list[str]) -> Row:
        if any("\0" in cell for cell in cells):
            return Row(line, error="it holds a NUL character")
        if _is_no_text(cells):
            return Row(line, error="it is not in UTF-8; save the table in that encoding")
        return Row(line, {name: cell for name, cell in zip(self._header, cells, strict=True) if name})

    def _miscounted(self, cells: list[str]) -> str:
        return (
            f"it has {len(cells)} {'cell' if len(cells) == 1 else 'cells'}, and the first line names "
            f"{len(self._header)} columns; a cell that holds a {SEPARATORS[self.separator]} needs quotes around it"
            f"{self._lines.go_back()}"
        )

    def _unmatched(self, error: csv.Error) -> str:
        again = self._lines.go_back()
        if "limit" in str(error) and not again:
            return f"a cell has more than {csv.field_size_limit()} characters"
        return (
            "its quotes do not match: one that opens a cell is closed before the next separator, and one inside is "
            f"written twice{again}"
        )


@contextmanager
def open_table(path: Path, needed: Collection[str], elsewhere: Mapping[str, str] | None = None) -> Iterator[Table]:
    """Open a table that has the columns `needed`.

    Args:
        path: a file, or a pipe.
        needed: names of columns, in lower case.
        elsewhere: columns of another command's tables, with a sentence that names that command.

    Raises:
        DataError: the file cannot be read, is no table, or lacks a column; says what was read.
    """
    with opened(path) as file:
        try:
            start = file.peek(2)[:2]
        except OSError as error:
            raise DataError(f"{quoted(path, PATH_CHARS)}: {error.strerror}") from error
        encoding = "utf-16" if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
        with io.TextIOWrapper(file, encoding, _NO_TEXT_ERRORS, newline="") as text:
            table = Table(path, text)
            if not set(needed) <= set(table.columns):
                hints = [f"; {hint}" for column, hint in (elsewhere or {}).items() if column in table.columns]
                raise DataError(
                    f"{table} must have the columns {' and '.join(needed)} in its first line; "
                    f"{table.read_as()}{''.join(hints)}"
                )
            yield table


class _Lines(Iterator[str]):
    """Yields the lines of a file, and can go back to the second line of a row."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._again: deque[str] = deque()
        self._taken: list[str] = []
        self._number = 1

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else self._file.readline()
        if not line:
            raise StopIteration
        self._taken.append(line)
        return line

    def first(self) -> str:
        """Read the first line that is not blank; it is yielded again."""
        while (line := self._file.readline(_HEADER_CHARS)) and not line.strip():
            self._number += 1
        self._again.append(line)
        return line

    def begin_row(self) -> int:
        """Begin a row with the next line. Returns its number."""
        self._number += len(self._taken)
        self._taken.clear()
        return self._number

    def go_back(self) -> str:
        """Leave a wrong row after its first line. Returns words that say so, if the row has more lines."""
        again = self._taken[1:]
        self._again.extendleft(reversed(again))
        del self._taken[1:]
        return "; each line below is read as a row of its own" if again else ""


def _split(line: str, separator: str) -> list[str]:
    """The cells of a line, even where its quotes do not match."""
    return next(csv.reader([line], delimiter=separator), [])


def _is_spaced(line: str, separator: str) -> bool:
    """Whether a space follows every separator; it then belongs to no cell."""
    rest = _split(line, separator)[1:]
    return bool(rest) and all(cell.startswith(" ") for cell in rest)


def _is_no_text(cells: Collection[str]) -> bool:
    return any("\0" in cell or _UNUSABLE.search(cell) for cell in cells)
