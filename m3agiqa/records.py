"""CSV files of results that grow with each result, so that a run that ended early can be continued."""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import BaseModel, ValidationError

from m3agiqa.contract import describe_validation
from m3agiqa.errors import DataError, OutputError
from m3agiqa.outputs import write
from m3agiqa.paths import exists, is_file
from m3agiqa.tables import open_table

RecordT = TypeVar("RecordT", bound=BaseModel)

#: Separates the items of a list in one cell.
LIST_SEPARATOR = "; "


class RecordFile(Generic[RecordT]):
    """A CSV file with a row for each record, whose fields are the columns."""

    def __init__(self, path: Path, kind: type[RecordT], command: str) -> None:
        """`command` is the command that writes such files, as messages name it."""
        self.path = path
        self._kind = kind
        self._command = command

    def read(self) -> list[RecordT]:
        """All records.

        Raises:
            DataError: the file is unreadable, or holds something else; says which line.
        """
        return list(self._read(whole=True))

    def left(self) -> list[RecordT]:
        """The records that an earlier run left, without a row that was cut off; none where there is no file.

        Raises:
            DataError: as `read`.
            OutputError: it is a device or a pipe, from which nothing can be read again.
        """
        if not exists(self.path):
            return []
        if not is_file(self.path):
            raise OutputError(f"{self.path} grows and is continued: it must be a file")
        return list(self._read(whole=False)) if self.path.stat().st_size else []

    def write(self, records: Iterable[RecordT]) -> None:
        """Replace the file by these records.

        Raises:
            OutputError: it cannot be written.
        """
        write(self.path, self._header() + self._as_csv(records))

    @contextmanager
    def growing(self, kept: Iterable[RecordT]) -> Iterator[Callable[[Iterable[RecordT]], None]]:
        """Write `kept`, and give a function that appends more. Whatever ends the run, appended records are in the file.

        Raises:
            OutputError: it cannot be written.
        """
        self.write(kept)
        with self._told():
            file = self.path.open("ab", buffering=0)
        with file:

            def append(records: Iterable[RecordT]) -> None:
                with self._told("; what was scored until then is in it, and the same command goes on from there"):
                    _write_whole(file, self._as_csv(records))

            yield append

    def _header(self) -> str:
        return ",".join(self._kind.model_fields) + "\r\n"

    def _read(self, *, whole: bool) -> Iterator[RecordT]:
        columns = tuple(self._kind.model_fields)
        # Older files lack the columns that are optional.
        needed = tuple(name for name, field in self._kind.model_fields.items() if field.is_required())
        with open_table(self.path, ()) as table:
            if table.columns not in (columns, needed):
                raise DataError(
                    f"{table} was not written by `{self._command}`: its first line is not {','.join(columns)}"
                )
            rows = list(table)
        if not whole:
            if not _ends_with_a_line(self.path):
                rows = rows[:-1]
            rows = [row for row in rows if row.error is None]
        for row in rows:
            where = f"{table}, line {row.line}"
            if row.error is not None:
                raise DataError(f"{where}: {row.error}")
            try:
                yield self._kind.model_validate(row.values)
            except ValidationError as error:
                raise DataError(f"{where}: {describe_validation(error)}") from None

    def _as_csv(self, records: Iterable[RecordT]) -> str:
        text = io.StringIO(newline="")
        csv.writer(text).writerows(
            [LIST_SEPARATOR.join(value) if isinstance(value, list) else value for value in row.values()]
            for row in (record.model_dump(mode="json") for record in records)
        )
        return text.getvalue()

    @contextmanager
    def _told(self, then: str = "") -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputError(f"cannot write {self.path}: {error.strerror}{then}") from error


def versioned(name: str, content: BaseModel) -> str:
    """`name` with a digest of its `content`, so that a later run notices a change."""
    return f"{name}@{hashlib.sha256(content.model_dump_json().encode()).hexdigest()[:12]}"


def _write_whole(file: io.FileIO, text: str) -> None:
    """Append all of `text`, or nothing of it."""
    start = file.tell()
    rest = memoryview(text.encode())
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except BaseException:
        file.truncate(start)
        raise


def _ends_with_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"
