"""`m3agiqa plot`: several results or models in one figure."""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from m3agiqa.cli.arguments import DONE
from m3agiqa.errors import RequestInvalid

if TYPE_CHECKING:
    from m3agiqa.train.predictions import Prediction

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
    from m3agiqa.outputs import check_writable
    from m3agiqa.report import plots

    check_writable(args.output)
    results = _read(args.results)
    if args.kind == "radar":
        figure = plots.radar(results)
    else:
        figure = plots.scatter(
            {f"{model}, {aspect}": rows for model, aspects in results.items() for aspect, rows in aspects.items()}
        )
    plots.save(figure, args.output)
    print(args.output)
    return DONE


def _read(arguments: list[str]) -> dict[str, dict[str, list[Prediction]]]:
    """Rows by model and aspect."""
    from m3agiqa.train.predictions import read_predictions

    results: dict[str, dict[str, list[Prediction]]] = defaultdict(dict)
    for argument in arguments:
        name, _, path = argument.rpartition("=")
        rows = read_predictions(Path(path))
        if not rows:
            raise RequestInvalid(f"{path} has no rows")
        model = name or rows[0].model.partition("@")[0]
        aspect = rows[0].aspect.value
        if aspect in results[model]:
            raise RequestInvalid(f"{path} is a second result of {model} for {aspect}; tell them apart with NAME={path}")
        results[model][aspect] = rows
    return results
