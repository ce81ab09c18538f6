"""`m3agiqa predict`: scores a data set's images for one aspect, and writes one row for each."""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from m3agiqa.cli import bars
from m3agiqa.cli.arguments import ASPECTS, add_batch_argument, add_model_arguments
from m3agiqa.cli.data import add_data_arguments
from m3agiqa.console import DONE, FAILED
from m3agiqa.contract import Aspect

if TYPE_CHECKING:
    from m3agiqa.scorer import Scoring
    from m3agiqa.train.data.dataset import DataSet
    from m3agiqa.train.evaluation.predictions import Prediction, PredictionTask

HELP = "Score a data set's images for one aspect; a killed run continues."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_rating_arguments(parser)
    parser.add_argument("--output", type=Path, required=True, metavar="F.csv", help="table with one row for each image")


def add_rating_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="with images/ and data.csv (name, prompt, labels)")
    parser.add_argument("--aspect", choices=ASPECTS, required=True)
    parser.add_argument(
        "--group", metavar="COLUMN", help="column of groups, or `prefix`: the file name up to its last underscore"
    )
    parser.add_argument(
        "--only",
        type=Path,
        nargs="+",
        metavar="F.json",
        help="conversation files such as val.json: take only the images they name",
    )
    add_data_arguments(parser)
    add_model_arguments(parser)
    add_batch_argument(parser)


def run(args: argparse.Namespace) -> int:
    rows, _ = predictions(args, args.output)
    failed = sum(row.error is not None for row in rows)
    print(f"{args.output}: {len(rows) - failed} scored, {failed} failed")
    return DONE if len(rows) > failed else FAILED


def predictions(args: argparse.Namespace, output: Path | None) -> tuple[list[Prediction], Scoring]:
    """Score the images that are wanted, but for those whose rows `output` has. Returns their rows in
    order, and the scorer.

    Rows of other images stay in `output`.
    """
    from m3agiqa.cli import local
    from m3agiqa.outputs import alone, check_writable
    from m3agiqa.train.data.conversations import read_conversations
    from m3agiqa.train.data.dataset import TABLE, load_data
    from m3agiqa.train.evaluation.predictions import PredictionTask

    aspect = Aspect(args.aspect)
    data = load_data(args.folder, args.images)
    if args.only is not None:
        data = data.only({item.image for path in args.only for item in read_conversations(path)})
    label = data.label_column(aspect, args.label)
    data.check_numbers(label)
    if args.group is not None:
        data.check_group(args.group)
    if output is not None:
        check_writable(output, args.folder / TABLE, *(args.only or ()), kept=True)
    with nullcontext() if output is None else alone(output):
        scorer = local.load(args.model, args.device, (aspect,), max_batch=args.batch_size)
        task = PredictionTask(aspect=aspect, label=label, label_scale=args.label_scale, group=args.group)
        return _predict(data, task, scorer, output, args.batch_size), scorer


def _predict(
    data: DataSet, task: PredictionTask, scorer: Scoring, output: Path | None, batch_size: int
) -> list[Prediction]:
    from m3agiqa.train.evaluation.predictions import PredictionFile, model_name, predict

    file = None if output is None else PredictionFile(output)
    kept = [] if file is None else file.resume(model_name(scorer.info), task, data)
    rows = {(row.name, row.prompt): row for row in kept}
    wanted = [(entry.name, entry.prompt) for entry in data.entries]
    missing = [entry for entry, key in zip(data.entries, wanted, strict=True) if key not in rows]
    bar = bars.counting()
    with bar, nullcontext() if file is None else file.growing(kept) as append:
        row = bar.add_task("scoring", total=len(wanted), completed=len(wanted) - len(missing))
        for batch in predict(data, task, scorer, missing, batch_size):
            rows |= {(row.name, row.prompt): row for row in batch}
            if append is not None:
                append(batch)
            bar.advance(row, len(batch))
    return [rows[key] for key in wanted]
