"""`m3agiqa bench`: how fast the engine is on this GPU, stage by stage."""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from m3agiqa.cli.arguments import DONE

if TYPE_CHECKING:
    from m3agiqa.engine.bench import Measured, Report

_COLUMNS = (
    *("date", "machine", "torch", "what", "size", "beams", "tokens", "largest_batch", "memory_limit_gib"),
    *("images", "seconds", "images_per_s", "memory_gib", "stages_ms"),
)

HELP = "Measure the engine with random weights at the published shapes, three aspects a picture."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="cuda", choices=["cuda"], help="only a CUDA device can be measured")
    parser.add_argument("--images", default="1,8,32,64", metavar="N,N,...", type=_counts, help="pictures in a batch")
    parser.add_argument("--size", default=512, type=int, help="side of the square pictures, pixels")
    parser.add_argument("--tokens", default=100, type=int, help="tokens of every description")
    parser.add_argument("--beams", default=3, type=int, help="1 is greedy")
    parser.add_argument("--baseline", action="store_true", help="measure the original's algorithm too, on two pictures")
    parser.add_argument("--memory-limit-gib", type=float, metavar="X", help="cap of the process's tensors")
    parser.add_argument("--repeats", default=3, type=int, help="counted runs, after one that is not")
    parser.add_argument("--json", action="store_true", help="print the report as JSON and nothing else")
    parser.add_argument("--csv", type=Path, metavar="F", help="append the report's rows to a CSV file")


def run(args: argparse.Namespace) -> int:
    from m3agiqa.engine import bench

    log = Console(stderr=True)
    settings = bench.Settings(
        args.images, args.size, args.tokens, args.beams, args.baseline, args.memory_limit_gib, args.repeats
    )
    report = bench.run(settings, lambda what: log.print(f"{what} ...", style="dim"))
    if args.csv is not None:
        _append(report, args.csv)
    if args.json:
        print(json.dumps(report.to_json()))
    else:
        Console().print(_table(report))
    return DONE


def _table(report: Report) -> Table:
    from m3agiqa.engine.bench import ORIGINAL_S

    settings = report.settings
    floors = any(row.floors_ms for row in report.rows)
    table = Table(
        *("what", "pictures", "s", "pictures/s", "of baseline", f"of {ORIGINAL_S} s", "stages, ms"),
        *(["share of floor, %"] if floors else []),
        "GiB",
        title=f"{report.machine}, {settings['size']}x{settings['size']}, three aspects, "
        f"{settings['beams']} beams, {settings['tokens']} tokens, {report.date}",
    )
    baseline = next((row.images_per_s for row in report.rows if row.what != "engine"), None)
    for row in report.rows:
        table.add_row(
            row.what,
            str(row.images),
            f"{row.seconds:.3f}",
            f"{row.images_per_s:.2f}",
            f"{row.images_per_s / baseline:.1f}x" if baseline else "-",
            f"{row.images_per_s * ORIGINAL_S:.1f}x",
            ", ".join(f"{name} {ms:.0f}" for name, ms in row.stages_ms.items()),
            *([", ".join(f"{name} {share:.0f}" for name, share in _shares(row).items())] if floors else []),
            f"{row.memory_gib:.1f}",
        )
    return table


def _shares(row: Measured) -> dict[str, float]:
    """The floor of each stage, and of all together, in percent of what it took."""
    if not row.floors_ms:
        return {}
    shares = {name: 100 * floor / row.stages_ms[name] for name, floor in row.floors_ms.items()}
    return shares | {"all": 100 * sum(row.floors_ms.values()) / (1000 * row.seconds)}


def _append(report: Report, path: Path) -> None:
    new = not path.exists()
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(_COLUMNS)
        for row in report.rows:
            settings = report.settings
            writer.writerow(
                [
                    *(report.date, report.machine, report.versions["torch"], row.what),
                    *(settings["size"], settings["beams"], settings["tokens"]),
                    *(max(settings["images"]) if row.what == "engine" else "", settings["memory_limit_gib"]),
                    row.images,
                    *(f"{row.seconds:.4f}", f"{row.images_per_s:.3f}", f"{row.memory_gib:.2f}"),
                    json.dumps({name: round(ms, 1) for name, ms in row.stages_ms.items()}),
                ]
            )


def _counts(value: str) -> tuple[int, ...]:
    try:
        counts = tuple(int(part) for part in value.split(","))
    except ValueError:
        counts = ()
    if not counts or min(counts) < 1:
        raise argparse.ArgumentTypeError(f"{value!r} is not a list of numbers like 1,8,32")
    return counts
