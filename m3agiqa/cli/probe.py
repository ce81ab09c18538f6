"""`m3agiqa probe`: measures how far hostile prompts move a model's scores."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table

from m3agiqa.cli import bars
from m3agiqa.cli.arguments import add_batch_argument, add_device_argument
from m3agiqa.console import ATTENTION, DONE, FAILED, number
from m3agiqa.contract import Failure
from m3agiqa.errors import DataError, M3AGIQAError

if TYPE_CHECKING:
    from m3agiqa.probe import Subject

HELP = "Measure how far hostile prompts move a model's scores, and how many decisions they turn."

#: Names of files that count as images, in a folder without a table.
_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".avif"})
#: Columns of what a kind's trials came to.
_COUNTS = ("trials", "milder", "stricter")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("profile", metavar="PROFILE", help="name of a profile, or a path to one")
    parser.add_argument(
        "source",
        type=Path,
        metavar="DIR",
        help="a data set's folder (images/ and data.csv), a folder of images, or a CSV as for `m3agiqa batch`",
    )
    parser.add_argument("--prompts", default="default", metavar="NAME", help="file of cfg/probes/, or a path to one")
    parser.add_argument("--policy", default="default", metavar="NAME", help="name of a policy, or a path to one")
    parser.add_argument(
        "--at-most",
        type=number(),
        metavar="X",
        help="exit with 3 if a prompt moves quality or authenticity of an image by more than X",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, and nothing else on stdout")
    add_device_argument(parser)
    add_batch_argument(parser)


def run(args: argparse.Namespace) -> int:
    from m3agiqa.cli import local
    from m3agiqa.policy import Policy
    from m3agiqa.probe import Prompts, summary, trials

    prompts, policy = Prompts.load(args.prompts), Policy.load(args.policy)
    subjects = list(_subjects(args.source))
    for subject in subjects:
        if isinstance(subject.job, Failure):
            print(f"left out: {subject.name}: {subject.job.message}", file=sys.stderr)
    scorer = local.load(args.profile, args.device, None, max_batch=args.batch_size)
    found = []
    with bars.counting() as bar:
        task = bar.add_task("probing", total=len(subjects))
        for image in trials(subjects, prompts, scorer, policy):
            found += image
            bar.advance(task)
    result = {"model": scorer.info.profile, "images": len({trial.image for trial in found}), "kinds": summary(found)}
    _print(result, as_json=args.json)
    if not found:
        return FAILED
    return ATTENTION if args.at_most is not None and _largest(result) > args.at_most else DONE


def _subjects(source: Path) -> Iterator[Subject]:
    from m3agiqa.files import read_job
    from m3agiqa.probe import Subject

    for name, path, prompt in _images(source):
        try:
            yield Subject(name, read_job(path, prompt, None))
        except M3AGIQAError as error:
            yield Subject(name, Failure.from_error(error))


def _images(source: Path) -> Iterator[tuple[str, Path, str]]:
    """Name, path and own prompt of each image."""
    if not source.is_dir():
        yield from _of_table(source)
    elif any(source.glob("*.csv")):
        from m3agiqa.cli import datasets

        data = datasets.load(source, None)
        for entry in data.entries:
            yield entry.name, data.image(entry.name), entry.prompt
    else:
        found = sorted(path for path in source.iterdir() if path.suffix.lower() in _SUFFIXES)
        if not found:
            raise DataError(f"{source} holds no images")
        for path in found:
            yield path.name, path, ""


def _of_table(source: Path) -> Iterator[tuple[str, Path, str]]:
    from m3agiqa.batch import COLUMNS, IMAGE_PATH, PROMPT
    from m3agiqa.files import find_image
    from m3agiqa.tables import open_table

    with open_table(source, COLUMNS) as table:
        for row in table:
            if row.error is not None:
                print(f"left out: line {row.line}: {row.error}", file=sys.stderr)
                continue
            name = row.values[IMAGE_PATH]
            yield name, find_image(name, source.parent), row.values[PROMPT]


def _largest(result: dict[str, Any]) -> float:
    from m3agiqa.policy import BLIND

    moves = [kind["aspects"].get(aspect, {"largest": 0.0}) for kind in result["kinds"].values() for aspect in BLIND]
    return max((abs(move["largest"]) for move in moves), default=0.0)


def _print(result: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(result, indent=2, allow_nan=False))
        return
    console = Console()
    title = f"{result['model']}: what prompts did to the scores of {result['images']} images"
    table = Table(title=title, box=box.SIMPLE, pad_edge=False)
    for name in ("kind", "aspect"):
        table.add_column(name, no_wrap=True)
    for name in ("mean", "largest", *_COUNTS):
        table.add_column(name, justify="right", no_wrap=True)
    for kind, summed in result["kinds"].items():
        counts = [str(summed[name]) for name in _COUNTS]
        for aspect, moves in summed["aspects"].items():
            table.add_row(kind, aspect, f"{moves['mean']:+.2f}", f"{moves['largest']:+.2f}", *counts)
            kind, counts = "", [""] * len(_COUNTS)
        table.add_section()
    console.print(table)
    if failed := sum(summed["failed"] for summed in result["kinds"].values()):
        console.print(f"{failed} trials left an aspect without a score")
    if (swapped := result["kinds"].get("swapped")) and "correspondence" in swapped["aspects"]:
        share = swapped["aspects"]["correspondence"]["lowered"]
        console.print(f"another image's prompt lowered correspondence in {100 * share:.0f} % of the trials")
    console.print("mean, largest: moves of scores. milder, stricter: decisions. Each against the image's own prompt.")
