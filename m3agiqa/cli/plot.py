"""`m3agiqa plot`: draws several results or models in one figure."""

from __future__ import annotations

import argparse
import os
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from m3agiqa.console import DONE
from m3agiqa.errors import DataError, UsageError

if TYPE_CHECKING:
    from m3agiqa.train.evaluation.predictions import Prediction

HELP = "Draw what `predict` wrote: scatter plots side by side, or a radar plot of several models and aspects."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "results",
        nargs="+",
        metavar="[NAME=]F.csv",
        help="from `predict`, or `evaluate --predictions`; NAME is shown for the model, default its profile",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="F.png", help="png, pdf or svg")
    parser.add_argument("--kind", choices=["scatter", "radar"], default="scatter")


def run(args: argparse.Namespace) -> int:
    from m3agiqa.report import plots
    from m3agiqa.train.evaluation.figures import radar_numbers, scatter_panel

    results = _read(args.results, args.output)
    if args.kind == "radar":
        figure = plots.radar({model: radar_numbers(aspects) for model, aspects in results.items()})
    else:
        figure = plots.scatter(
            {
                f"{model}, {aspect}": scatter_panel(rows)
                for model, aspects in results.items()
                for aspect, rows in aspects.items()
            }
        )
    plots.save(figure, args.output)
    print(args.output)
    return DONE


def _read(arguments: list[str], output: Path) -> dict[str, dict[str, list[Prediction]]]:
    """Predictions by model and aspect."""
    from m3agiqa.report import plots
    from m3agiqa.train.evaluation.predictions import read_predictions

    results: dict[str, dict[str, list[Prediction]]] = defaultdict(dict)
    named = [_named(argument) for argument in arguments]
    plots.check(output, *(path for _, path in named))
    for name, path in named:
        rows = read_predictions(path)
        if not rows:
            raise DataError(f"{path} has no rows")
        model = name or rows[0].model.partition("@")[0]
        aspect = rows[0].aspect.value
        if aspect in results[model]:
            raise UsageError(f"{path} is a second result of {model} for {aspect}; tell them apart with NAME={path}")
        results[model][aspect] = rows
    return results


def _named(argument: str) -> tuple[str, Path]:
    """The name of a result, which may be empty, and its file. An argument that is a file as it stands has no name."""
    name, equals, path = argument.partition("=")
    if not equals or os.path.exists(argument):  # noqa: PTH110 - never raises
        return "", Path(argument)
    return name, Path(path)
