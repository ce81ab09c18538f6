"""`m3agiqa compare`: holds two sets of verdicts against each other."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from m3agiqa.cli import report
from m3agiqa.cli.arguments import SEED
from m3agiqa.console import DONE
from m3agiqa.contract import Aspect
from m3agiqa.report import sources

if TYPE_CHECKING:
    from m3agiqa.report.judged import Judged

HELP = "Compare two sets of verdicts: how scores lie, how far they agree on shared images, decisions that differ."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("first", metavar="A", help=sources.HELP)
    parser.add_argument("second", metavar="B", help="the same of another model or time")
    parser.add_argument("--seed", type=SEED, default=0, help="seed of the bootstrap (default 0)")
    parser.add_argument("--json", action="store_true", help="print JSON, and nothing else on stdout")
    parser.add_argument("--plot", type=Path, metavar="F.png", help="draw how scores lie (png, pdf or svg)")
    parser.add_argument(
        "--page",
        type=Path,
        metavar="DIR",
        help="write a page of the images about which decisions differ, as B has them",
    )
    report.add_page_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from m3agiqa.report import plots
    from m3agiqa.train.evaluation.comparison import compare, scores

    if args.plot is not None:
        plots.check(args.plot, Path(args.first), Path(args.second))
    sets = {name: list(sources.judged(source)) for name, source in (("A", args.first), ("B", args.second))}
    result = compare(*sets.values(), seed=args.seed)
    if args.json:
        print(json.dumps(result, indent=2, allow_nan=False), flush=True)
    else:
        _show(result)
    if args.plot is not None:
        panels = {
            aspect: {
                name: known.tolist() for name, images in sets.items() if len(known := scores(images, Aspect(aspect)))
            }
            for aspect in result["aspects"]
        }
        plots.save(plots.distributions(panels), args.plot)
    if args.page is not None:
        print(_write_page(args, sets), file=sys.stderr if args.json else sys.stdout)
    return DONE


def _write_page(args: argparse.Namespace, sets: dict[str, list[Judged]]) -> Path:
    from m3agiqa.policy import Policy
    from m3agiqa.report.page.build import Page
    from m3agiqa.train.evaluation.comparison import pair

    differ = [replace(b, before=a.decision) for a, b in pair(*sets.values()).pairs if a.decision is not b.decision]
    return report.write_page(args, Page(Policy.load(args.policy), "Decisions that differ"), differ, args.page)


def _show(result: dict[str, Any]) -> None:
    console = Console()
    table = Table("", "A", "B", "B - A", "95 % interval")
    table.add_row("images", str(result["a"]["images"]), str(result["b"]["images"]))
    table.add_row("failed", str(result["a"]["failed"]), str(result["b"]["failed"]))
    for decision in result["a"]["decisions"]:
        table.add_row(decision, *(_share(result[side]["decisions"][decision]) for side in "ab"))
    for aspect, found in result["aspects"].items():
        means = [_number(found[side]["mean"]) for side in "ab"]
        table.add_row(f"{aspect}, mean", *means, _number(found["mean_shift"]), _interval(found["mean_shift_ci95"]))
        medians = [_number((found[side]["quantiles"] or {}).get("0.5")) for side in "ab"]
        table.add_row(f"{aspect}, median", *medians)
    console.print(table)
    for side, name in (("a", "A"), ("b", "B")):
        console.print(f"{name}: {', '.join(filter(None, result[side]['models'])) or 'model untold'}", highlight=False)
    if not result["shared"]:
        console.print("A and B share no image")
        return
    shared = Table("shared images", "value", "95 % interval")
    for aspect, found in result["aspects"].items():
        for name, words in (("srcc", "SRCC"), ("mean_shift", "mean of B - A"), ("mean_distance", "mean distance")):
            agreement = found["shared"]
            shared.add_row(f"{aspect}, {words}", _number(agreement[name]), _interval(agreement[f"{name}_ci95"]))
    differ = result["decisions_that_differ"]
    shared.add_row("decisions that differ", *_share(differ).split(" ", 1))
    console.print(shared)
    changes = "".join(f"; {change}: {count}" for change, count in differ["by_change"].items())
    console.print(f"{result['shared']} shared images, matched by {result['matched_by']}{changes}", highlight=False)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _interval(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"


def _share(share: dict[str, Any]) -> str:
    if share["share"] is None:
        return "-"
    low, high = share["share_ci95"]
    return f"{100 * share['share']:.1f}% ({100 * low:.1f} to {100 * high:.1f})"
