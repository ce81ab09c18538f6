"""`m3agiqa batch`: a CSV of pictures in, JSON and CSV of scores out."""

from __future__ import annotations

import argparse
import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress
from rich.table import Table

from m3agiqa.cli.arguments import DONE, FAILED, USAGE, add_batch_argument, add_scoring_arguments, wanted_aspects
from m3agiqa.contract import Aspect, AspectScore, Failure
from m3agiqa.errors import M3AGIQAError, RequestInvalid

if TYPE_CHECKING:
    from m3agiqa.jobs import Scores
    from m3agiqa.policy import Policy
    from m3agiqa.scorer import Scoring

HELP = "Score the pictures of a CSV file with the columns image_path and prompt."

COLUMNS = ("image_path", "prompt", "aspect", "description", "score", "rating", "error")


@dataclass(frozen=True)
class _Row:
    image_path: str
    prompt: str


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
        help="a list of rows, one a picture and aspect; the same goes to F.csv",
    )
    add_scoring_arguments(parser)
    add_batch_argument(parser)


def run(args: argparse.Namespace) -> int:
    from m3agiqa.cli import local
    from m3agiqa.outputs import check_writable, write
    from m3agiqa.policy import Policy

    table = args.output.with_suffix(".csv")
    wrong = None
    if args.output == table:
        wrong = f"--output must not end in .csv: {table} is written beside it"
    elif table.resolve() == args.csv.resolve():
        wrong = f"{table} would be written beside {args.output}, over the pictures' table; name another --output"
    if wrong is not None:
        Console(stderr=True).print(f"error: {wrong}", style="red")
        return USAGE
    rows = _read(args.csv)
    policy = Policy.load(args.policy)
    for path in (args.output, table):
        check_writable(path)
    aspects = wanted_aspects(args.aspect)
    scorer = local.load(args.model, args.device, aspects, max_batch=args.batch_size)
    records: list[dict[str, Any]] = []
    try:
        with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=Console(stderr=True)) as progress:
            for start in progress.track(range(0, len(rows), args.batch_size), description="scoring"):
                part = rows[start : start + args.batch_size]
                records += _score(part, args.csv.parent, scorer, aspects, policy)
    finally:
        # Also when interrupted: what was scored is kept.
        write(args.output, json.dumps(records, indent=2, ensure_ascii=False) + "\n")
        write(table, _as_csv(records))
    _show_averages(records, aspects or scorer.aspects)
    return DONE if any(record["error"] is None for record in records) or not rows else FAILED


def _read(path: Path) -> list[_Row]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if not {"image_path", "prompt"} <= set(reader.fieldnames or ()):
                raise RequestInvalid(f"{path} must have the columns image_path and prompt in its first line")
            return [_Row(row["image_path"] or "", row["prompt"] or "") for row in reader]
    except OSError as error:
        raise RequestInvalid(f"{path}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise RequestInvalid(f"{path} is no CSV file in UTF-8 ({type(error).__name__})") from error


def _score(
    rows: Sequence[_Row], folder: Path, scorer: Scoring, aspects: tuple[Aspect, ...] | None, policy: Policy
) -> list[dict[str, Any]]:
    """The records of one batch, in order; a row that fails has its error and no score."""
    from m3agiqa.files import read_job
    from m3agiqa.jobs import Job

    jobs: list[Job | Failure] = []
    for row in rows:
        try:
            path = folder / row.image_path
            jobs.append(read_job(path if path.exists() else Path(row.image_path), row.prompt, aspects))
        except M3AGIQAError as error:
            jobs.append(Failure.of(error))
    outcomes = iter(scorer.score([job for job in jobs if isinstance(job, Job)]))
    wanted = aspects or scorer.aspects
    return [
        record
        for row, job in zip(rows, jobs, strict=True)
        for record in _records(row, next(outcomes) if isinstance(job, Job) else job, wanted, policy)
    ]


def _records(row: _Row, outcome: Scores | Failure, wanted: tuple[Aspect, ...], policy: Policy) -> list[dict[str, Any]]:
    scores: Mapping[Aspect, AspectScore] = {}
    failures: Mapping[Aspect, Failure]
    if isinstance(outcome, Failure):
        failures = dict.fromkeys(wanted, outcome)
        decision, reasons = policy.decide(scores, wanted, outcome)
    else:
        scores, failures = outcome.aspects, outcome.failures
        decision, reasons = policy.decide(scores, wanted)
    records = []
    for aspect in wanted:
        scored, failure = scores.get(aspect), failures.get(aspect)
        records.append(
            {
                "image_path": row.image_path,
                "prompt": row.prompt,
                "aspect": aspect,
                "description": scored.description if scored else None,
                "score": scored.score if scored else None,
                "rating": scored.rating if scored else None,
                "error": f"{failure.code}: {failure.message}" if failure else None,
                "decision": decision,
                "reasons": reasons,
            }
        )
    return records


def _as_csv(records: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def _show_averages(records: Sequence[dict[str, Any]], wanted: Sequence[Aspect]) -> None:
    table = Table("aspect", "average score", "scored", "failed")
    for aspect in wanted:
        scores = [record["score"] for record in records if record["aspect"] == aspect]
        known = [score for score in scores if score is not None]
        average = f"{sum(known) / len(known):.3f}" if known else "-"
        table.add_row(aspect, average, str(len(known)), str(len(scores) - len(known)))
    Console().print(table)
