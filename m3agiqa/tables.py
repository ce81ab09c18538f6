"""Tables that users bring: CSV files, read row by row, and no row is passed over in silence.

Columns are named forgivingly: capitals and spaces around a name do not matter, the first line tells whether commas,
semicolons or tabs separate, and UTF-8 and UTF-16 may begin with a byte order mark. Cells are taken as they stand.
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

#: What may stand between cells, and what people call it.
SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab"}

#: Characters of a first line, at most: a file without line ends is no table.
_HEADER_CHARS = 65_536
#: Characters of the column names in a message.
_SHOWN_CHARS = 240
#: What stands for a byte that is no text, so that its row alone goes wrong.
_NO_TEXT = "\udcff"
_NO_TEXT_ERRORS = "m3agiqa.tables"
_UNUSABLE = re.compile("[\ud800-\udfff]")


def _marked(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return _NO_TEXT, error.end


codecs.register_error(_NO_TEXT_ERRORS, _marked)


@dataclass(frozen=True)
class Row:
    """One row: its values by column, or what is wrong with it."""

    #: Line it begins on; the file's first is 1.
    line: int
    values: Mapping[str, str] = field(default_factory=dict)
    error: str | None = None


class Table:
    """An open table; iterating reads it once."""

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
        """Words for what the first line was read as."""
        if not self.columns:
            return "it is empty"
        names = quoted(" | ".join(self.columns), _SHOWN_CHARS)
        return f"the first line was read as {names} (separator: {SEPARATORS[self.separator]})"

    def __iter__(self) -> Iterator[Row]:
        """Rows in order, blank lines left out.

        A row of several lines that goes wrong may have swallowed others: reading goes on with its second line.

        Raises:
            DataError: the file can be read no further.
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
        needed: names in lower case.
        elsewhere: columns that another command reads, and the sentence that names it.

    Raises:
        DataError: it cannot be read, is no table, or lacks a column; says what was read.
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
    """Lines of a file, which can go back to the second line of a row."""

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
        """The first line that is not blank, which is given out again."""
        while (line := self._file.readline(_HEADER_CHARS)) and not line.strip():
            self._number += 1
        self._again.append(line)
        return line

    def begin_row(self) -> int:
        """The number of the line that comes next."""
        self._number += len(self._taken)
        self._taken.clear()
        return self._number

    def go_back(self) -> str:
        """Leave a row that went wrong after its first line; says so where it has more."""
        again = self._taken[1:]
        self._again.extendleft(reversed(again))
        del self._taken[1:]
        return "; each line below is read as a row of its own" if again else ""


def _split(line: str, separator: str) -> list[str]:
    """Cells of a line, whatever its quotes."""
    return next(csv.reader([line], delimiter=separator), [])


def _is_spaced(line: str, separator: str) -> bool:
    """Whether a space follows every separator, and is no part of the cells."""
    rest = _split(line, separator)[1:]
    return bool(rest) and all(cell.startswith(" ") for cell in rest)


def _is_no_text(cells: Collection[str]) -> bool:
    return any("\0" in cell or _UNUSABLE.search(cell) for cell in cells)
