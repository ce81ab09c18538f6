"""`m3agiqa batch`: reads a CSV of images, writes JSON and CSV of scores."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from m3agiqa.cli import bars
from m3agiqa.cli.arguments import add_batch_argument, add_scoring_arguments, wanted_aspects
from m3agiqa.console import DONE, FAILED
from m3agiqa.contract import Aspect
from m3agiqa.errors import OutputError, UsageError
from m3agiqa.paths import exists, is_file

if TYPE_CHECKING:
    from m3agiqa.batch import Batch, Record
    from m3agiqa.policy import Policy
    from m3agiqa.records import RecordFile
    from m3agiqa.tables import Row

HELP = "Score the images of a CSV file with the columns image_path and prompt; a run that ended early continues."

#: Wrong rows that are shown.
_SHOWN = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "csv",
        type=Path,
        metavar="CSV",
        help="image_path is relative to this file's folder, or else to the current one",
    )
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="F.json",
        help="a list of rows, one for each image and aspect; F.csv has the same, and grows meanwhile",
    )
    add_scoring_arguments(parser)
    add_batch_argument(parser)


def run(args: argparse.Namespace) -> int:
    from m3agiqa.batch import COLUMNS, Record, images
    from m3agiqa.outputs import alone, check_writable
    from m3agiqa.policy import Policy
    from m3agiqa.records import RecordFile
    from m3agiqa.tables import open_table

    _check_output(args.output, args.csv)
    with open_table(args.csv, COLUMNS, {"image_url": "`m3agiqa-submit csv` takes URLs"}) as table:
        rows = list(table)
    policy = Policy.load(args.policy)
    file = RecordFile(args.output.with_suffix(".csv"), Record, "m3agiqa batch")
    for path in (args.output, file.path):
        check_writable(path, args.csv, *images(rows, args.csv.parent))
    with alone(file.path):
        return _run(args, rows, policy, file)


def _run(args: argparse.Namespace, rows: Sequence[Row], policy: Policy, file: RecordFile[Record]) -> int:
    from m3agiqa.batch import Batch, known_rows
    from m3agiqa.cli import local

    scored = known_rows(file.left(), rows, file.path, args.csv.parent)
    aspects = wanted_aspects(args.aspect)
    scorer = local.load(args.model, args.device, aspects, max_batch=args.batch_size)
    batch = Batch(args.csv.parent, scorer, aspects or scorer.aspects, policy)
    batch.check_continues(_in_order(scored), file.path)
    _tell(rows, len(scored), file.path)
    try:
        _score(batch, rows, scored, file, args.batch_size)
    except BaseException:
        # The CSV file has the scores whatever ended the run; the JSON file gets them too, if there is room.
        with suppress(OutputError):
            _write_json(args.output, scored)
        raise
    try:
        _write_json(args.output, scored)
    except OutputError as error:
        raise OutputError(f"{error}; {file.path} is whole, and the same command goes on from there") from error
    records = _in_order(scored)
    _show_averages(records, batch.aspects)
    return DONE if any(record.error is None for record in records) or not rows else FAILED


def _check_output(output: Path, source: Path) -> None:
    """Raises: UsageError: no CSV file can stand beside `output`, or it would replace the table `source`."""
    if not output.name or (exists(output) and not is_file(output)):
        raise UsageError(f"--output must name a file, beside which another one can be written, not {output}")
    table = output.with_suffix(".csv")
    if output == table:
        raise UsageError(f"--output must not end in .csv: {table} is written beside it")
    if os.path.realpath(table) == os.path.realpath(source):
        raise UsageError(f"{table} would be written beside {output}, over the images' table; name another --output")


def _tell(rows: Sequence[Row], known: int, path: Path) -> None:
    wrong = [f"line {row.line}: {row.error}" for row in rows if row.error is not None]
    more = [f"{len(wrong) - _SHOWN} more rows are wrong"] if len(wrong) > _SHOWN else []
    kept = [f"{known} of {len(rows)} rows stand in {path}; remove it to score them anew"] if known else []
    for line in [*wrong[:_SHOWN], *more, *kept]:
        print(line, file=sys.stderr)


def _score(
    batch: Batch, rows: Sequence[Row], scored: dict[int, list[Record]], file: RecordFile[Record], batch_size: int
) -> None:
    """Score the rows that `scored` lacks, and add their records to `scored` and to `file`."""
    known = max(scored, default=-1)
    missing = [number for number in range(len(rows)) if number not in scored]
    bar = bars.counting()
    with bar, file.growing(_in_order(scored)) as append:
        task = bar.add_task("scoring", total=len(rows), completed=len(scored))
        for start in range(0, len(missing), batch_size):
            numbers = missing[start : start + batch_size]
            records = batch.score([rows[number] for number in numbers])
            append(record for row_records in records for record in row_records)
            scored |= zip(numbers, records, strict=True)
            bar.advance(task, len(numbers))
    if missing and missing[0] < known:
        file.write(_in_order(scored))


def _in_order(scored: dict[int, list[Record]]) -> list[Record]:
    return [record for number in sorted(scored) for record in scored[number]]


def _write_json(path: Path, scored: dict[int, list[Record]]) -> None:
    from m3agiqa.outputs import write

    records = [record.model_dump(mode="json") for record in _in_order(scored)]
    write(path, json.dumps(records, indent=2, ensure_ascii=False) + "\n")


def _show_averages(records: Iterable[Record], wanted: Sequence[Aspect]) -> None:
    table = Table("aspect", "average score", "scored", "failed")
    for aspect in wanted:
        scores = [record.score for record in records if record.aspect == aspect]
        known = [score for score in scores if score is not None]
        average = f"{sum(known) / len(known):.3f}" if known else "-"
        table.add_row(aspect, average, str(len(known)), str(len(scores) - len(known)))
    Console().print(table)
