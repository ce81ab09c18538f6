"""`m3agiqa evaluate`: measures how well a model's scores of one aspect follow human ones."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from m3agiqa.cli.arguments import SEED
from m3agiqa.cli.predict import add_rating_arguments, predictions
from m3agiqa.console import DONE, FAILED

HELP = "Measure how a model's scores of one aspect follow human ones: SRCC, PLCC, KRCC with confidence intervals."

_NAMES = {
    "srcc": "SRCC",
    "plcc": "PLCC",
    "plcc_logistic": "PLCC, logistic",
    "krcc": "KRCC",
    "srcc_within_groups": "SRCC within groups",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_rating_arguments(parser)
    parser.add_argument("--predictions", type=Path, metavar="F.csv", help="also write the rows; a killed run continues")
    parser.add_argument("--seed", type=SEED, default=0, help="seed of the bootstrap (default 0)")
    parser.add_argument(
        "--texts",
        type=Path,
        nargs="+",
        metavar="F.json",
        help="conversation files: also measure how much of the descriptions is copied from these",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, and nothing else on stdout")
    parser.add_argument("--plot", type=Path, metavar="F.png", help="draw a scatter plot (png, pdf or svg)")


def run(args: argparse.Namespace) -> int:
    from m3agiqa.train.data.conversations import read_conversations
    from m3agiqa.train.data.dataset import TABLE
    from m3agiqa.train.evaluation.evaluate import evaluate
    from m3agiqa.train.evaluation.novelty import novelty

    texts = [item.description for path in args.texts or () for item in read_conversations(path)]
    if args.plot is not None:
        from m3agiqa.report import plots
        from m3agiqa.train.evaluation.figures import scatter_panel

        plots.check(args.plot, args.folder / TABLE, *(args.texts or ()), *(args.only or ()))
    rows, scorer = predictions(args, args.predictions)
    result = {
        "aspect": args.aspect,
        "model": scorer.info.profile,
        "revisions": scorer.info.revisions,
        "trained": scorer.info.trained,
        **evaluate(rows, seed=args.seed),
        **(novelty(rows, texts) if texts else {}),
    }
    if args.json:
        print(json.dumps(result, indent=2, allow_nan=False), flush=True)
    else:
        _show(result)
    if args.plot is not None:
        plots.save(plots.scatter({f"{scorer.info.profile}, {args.aspect}": scatter_panel(rows)}), args.plot)
    if result["n"]:
        return DONE
    why = f"{result['failed']} images failed, {result['unlabelled']} have no label in {args.folder}"
    print(f"error: there is nothing to compare: {why}", file=sys.stderr)
    return FAILED


def _show(result: dict[str, Any]) -> None:
    console = Console()
    trained = "" if result["trained"] else ", untrained"
    table = Table("metric", "value", "95 % interval", title=f"{result['aspect']} by {result['model']}{trained}")
    for key, name in _NAMES.items():
        value, interval = result[key], result[f"{key}_ci95"]
        shown = result["reasons"].get(key, "") if value is None else f"{value:.4f}"
        table.add_row(name, shown, f"{interval[0]:.4f} to {interval[1]:.4f}" if interval else "")
    console.print(table)
    console.print(f"{result['n']} images, {result['failed']} failed, {result['unlabelled']} without a label")
    if "descriptions" in result:
        share = result["grams_in_texts"]
        copied = "" if share is None else f", {100 * share:.1f} % of their 8-grams stand in the texts"
        console.print(
            f"{result['descriptions_distinct']} of {result['descriptions']} descriptions are distinct{copied}"
        )
    if result["groups"]:
        groups = Table("group", "images", "SRCC")
        for name, group in result["groups"].items():
            groups.add_row(name, str(group["n"]), "-" if group["srcc"] is None else f"{group['srcc']:.4f}")
        console.print(groups)
