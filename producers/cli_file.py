"""`m3agiqa-submit file`: submits the rows of a table, or the images below a prefix in S3.

Rows without an id of their own get one that is made of their content. So the same command goes on where an earlier one
ended, however that was: what is queued or scored already is not submitted again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO

from rich.progress import Progress

from m3agiqa import console
from m3agiqa.client import Client
from m3agiqa.console import DONE, FAILED
from m3agiqa.errors import DataError, M3AGIQAError, QueueFull, RequestConflict, RequestInvalid, UsageError
from producers import cli_request
from producers.bulk import objects, rows
from producers.bulk.requests import Prepared, prepared
from producers.bulk.rows import Row, Rows
from producers.notes import note, stderr

#: Rows that are sent together, and bytes of images with which there are fewer.
_ROWS, _BYTES = 200, 32 * 2**20


def place(name: str) -> str | Path:
    """The type of an argument that names a file, or a place in S3."""
    return name if name.startswith("s3://") else Path(name)


def add_options(parser: argparse.ArgumentParser) -> None:
    columns = f"any of the columns {', '.join(rows.COLUMNS)}"
    parser.add_argument(
        "file",
        type=place,
        metavar="FILE",
        help=f"CSV, JSON on lines, or Parquet, with {columns}; or s3://bucket/prefix",
    )
    parser.add_argument(
        "--format", choices=sorted({"csv", *rows.FORMATS.values()}), help="default: what the name says, else csv"
    )
    parser.add_argument(
        "--rejected", type=Path, metavar="F", help="write rows that were not submitted here, with reasons"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object a row, which says where it was, too")
    parser.add_argument("--prompt", type=console.text, help="of images that have none of their own")
    cli_request.add_options(parser)
    parser.set_defaults(run=_file)


def _file(client: Client, arguments: argparse.Namespace) -> int:
    rejected = nullcontext() if arguments.rejected is None else _written(arguments.rejected, arguments.file)
    source = _opened(arguments.file, arguments.format, has_prompt=arguments.prompt is not None)
    with rejected as file, source as found, Progress(console=stderr()) as progress:
        folder = arguments.file.parent if isinstance(arguments.file, Path) else None
        bulk = _Bulk(client, cli_request.fields(arguments), folder, file, as_json=arguments.json)
        bar = progress.add_task("submitting", total=found.total)
        for at in bulk.submit(found.rows):
            progress.update(bar, completed=at)
        progress.update(bar, completed=found.total)
    if bulk.there:
        note(f"{bulk.there} rows were there already")
    if bulk.bad:
        note(f"{bulk.bad} rows were not submitted")
    return FAILED if bulk.bad else DONE


@contextmanager
def _opened(file: Path | str, kind: str | None, *, has_prompt: bool) -> Iterator[Rows]:
    if isinstance(file, Path):
        with rows.opened(file, kind, has_prompt=has_prompt) as found:
            yield found
    elif kind is not None:
        raise UsageError("--format: goes with a file, and not with a place in S3")
    else:
        yield objects.listed(file)


@contextmanager
def _written(path: Path, source: Path | str) -> Iterator[BinaryIO]:
    """A file whose content is written to `path` once the block has ended well."""
    # Here alone, as it takes a system that locks files, which a producer's need not.
    from m3agiqa.outputs import check_writable, whole

    check_writable(path, *([source] if isinstance(source, Path) else []))
    with tempfile.TemporaryFile() as kept:
        yield kept
        kept.seek(0)
        with whole(path) as file:
            shutil.copyfileobj(kept, file)


class _Bulk:
    """Submits rows some at a time, and counts what became of them."""

    def __init__(
        self,
        client: Client,
        defaults: Mapping[str, Any],
        folder: Path | None,
        rejected: BinaryIO | None,
        *,
        as_json: bool,
    ) -> None:
        self._client = client
        self._defaults = defaults
        self._folder = folder
        self._rejected = rejected
        self._as_json = as_json
        self.there = self.bad = 0
        # What stands under ids that rows have of their own. As numbers, for tables of millions of rows.
        self._named: dict[int, int] = {}

    def submit(self, found: Iterator[Row]) -> Iterator[int]:
        """Submit all; yields how far it is, now and then.

        Raises:
            DataError: the rest cannot be read; what was read until then is submitted.
        """
        some: list[Prepared] = []
        size = 0
        broken = None
        while True:
            try:
                row = next(found, None)
            except DataError as error:
                row, broken = None, error
            if row is not None:
                one = self._prepare(row)
                some += [one] if one else []
                size += len(one.image or b"") if one else 0
            if row is None or len(some) == _ROWS or size >= _BYTES:
                self._send(some)
                some, size = [], 0
                if row is None:
                    break
                yield row.at
        if broken is not None:
            raise broken

    def _prepare(self, row: Row) -> Prepared | None:
        try:
            one = prepared(row, self._defaults, self._folder)
            if not one.is_named_by_content:
                content = hash(one.request.fingerprint)
                if self._named.setdefault(hash(one.request.name), content) != content:
                    raise RequestConflict("request_id: another row of this table has it")
        except (RequestInvalid, RequestConflict) as error:
            self._reject(row, error)
            return None
        return one

    def _send(self, some: Sequence[Prepared]) -> None:
        """Submit what is not there yet, and print the ids of all."""
        asked = [one.request.name for one in some if one.is_named_by_content and not one.request.retry_failed]
        known = {name for name, status in self._client.status_many(asked).items() if status.state is not None}
        for one in some:
            if one.request.name in known:
                self._tell(one, one.request.name)
                self.there += 1
        self._submit([one for one in some if one.request.name not in known])

    def _submit(self, some: Sequence[Prepared]) -> None:
        """Submit these. Waits while the queue is full. One that is refused is found by halving, and costs no other."""
        rest = list(some)
        while rest:
            pause_s = 0.0
            try:
                ids: Sequence[str] = self._client.submit_many(one.to_submit() for one in rest)
            except QueueFull as full:
                ids, pause_s = full.submitted, full.retry_after_s
                note(f"the queue is full; going on in {pause_s:.0f} s")
            except (RequestInvalid, RequestConflict) as error:
                if len(rest) == 1:
                    self._reject(rest.pop().row, error)
                else:
                    self._submit(rest[: len(rest) // 2])
                    del rest[: len(rest) // 2]
                continue
            for one, request_id in zip(rest, ids, strict=False):
                self._tell(one, request_id)
            del rest[: len(ids)]
            time.sleep(pause_s)

    def _tell(self, one: Prepared, request_id: str) -> None:
        print(json.dumps({"request_id": request_id, "where": one.row.where}) if self._as_json else request_id)

    def _reject(self, row: Row, error: M3AGIQAError) -> None:
        self.bad += 1
        if self._rejected is None:
            note(f"{row.where}: {error}")
            return
        told = {"where": row.where, "reason": str(error), "row": dict(row.fields)}
        self._rejected.write(json.dumps(told, default=_shown).encode() + b"\n")


def _shown(value: object) -> str:
    """What JSON has no word for, in a file for people."""
    return f"{len(value)} bytes" if isinstance(value, bytes) else str(value)
