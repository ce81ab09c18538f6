"""`m3agiqa bench`: measures how fast the engine is on this GPU, stage by stage."""

from __future__ import annotations

import argparse
import csv
import io
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from m3agiqa import console
from m3agiqa.console import DONE
from m3agiqa.errors import ConfigError
from m3agiqa.inputs import read_text
from m3agiqa.outputs import append, check_writable
from m3agiqa.quoting import PATH_CHARS, quoted

if TYPE_CHECKING:
    import torch

    from m3agiqa.bench.soak import Soak
    from m3agiqa.bench.stages import Measured, Report

_COLUMNS = (
    *("date", "machine", "torch", "what", "size", "beams", "tokens", "largest_batch", "memory_limit_gib"),
    *("images", "seconds", "images_per_s", "memory_gib", "stages_ms", "lengths"),
    *("card_tflops", "card_tb_per_s", "card_ms"),
)

#: Images that the frozen model reads together with --training.
_READ_AT_ONCE = 16

HELP = (
    "Measure the engine with random weights at the published shapes, three aspects an image; or, with --training, "
    "how much time the cache of states saves as a head is trained."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"], help="cpu only with --heads or --training")
    parser.add_argument("--images", default="1,8,32,64", metavar="N,N,...", type=_counts, help="images in a batch")
    parser.add_argument(
        "--size", default=512, type=console.whole(most=65_536), help="side of the square images, pixels"
    )
    parser.add_argument("--tokens", default=100, type=console.whole(most=4096), help="tokens of every description")
    parser.add_argument(
        "--lengths",
        metavar="FILE",
        help="draw each description's tokens from a table with the columns tokens and descriptions, or from that of "
        "12,170 reference descriptions (`reference`)",
    )
    parser.add_argument("--beams", default=3, type=console.whole(most=16), help="beams of the search; 1 is greedy")
    parser.add_argument("--baseline", action="store_true", help="measure the original's algorithm too, on two images")
    parser.add_argument(
        "--memory-limit-gib",
        type=console.number(is_open=True),
        metavar="X",
        help="most GPU memory the process may use, GiB",
    )
    parser.add_argument("--repeats", default=3, type=console.whole(), help="counted runs, after one warm-up run")
    parser.add_argument(
        "--soak",
        default=0,
        type=console.whole(0),
        metavar="N",
        help="run N more batches, and show the memory each leaves",
    )
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument("--heads", action="store_true", help="measure the xLSTM head alone")
    modes.add_argument(
        "--precision",
        action="store_true",
        help="measure how far scores differ from float32's, and in a batch from alone",
    )
    modes.add_argument(
        "--training",
        action="store_true",
        help="measure training a head from the cache, and reading images anew every epoch",
    )
    parser.add_argument("--config", default="mini-head", metavar="NAME", help="with --training: name under cfg/train")
    parser.add_argument(
        "--training-images", default=48, type=console.whole(8), help="with --training: number of images, at least 8"
    )
    parser.add_argument("--epochs", default=20, type=console.whole(), help="with --training: number of epochs")
    parser.add_argument("--rows", default=96, type=console.whole(), help="with --heads: conversations of 600 tokens")
    parser.add_argument(
        "--dtype",
        default="float16",
        choices=["float16", "bfloat16", "float8"],
        help="float8 as in profiles with `precision: float8`; with --precision, what is compared with float32",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON and nothing else")
    parser.add_argument("--csv", type=Path, metavar="F", help="append the report's rows to a CSV file")


def run(args: argparse.Namespace) -> int:
    from m3agiqa.engine.loading import choose_device

    if args.csv is not None:
        check_writable(args.csv, kept=True)
        _check_columns(args.csv)
    if args.lengths is not None and (args.baseline or args.soak or args.heads or args.precision or args.training):
        raise ConfigError("--lengths goes with none of --baseline, --soak, --heads, --precision and --training")
    if args.csv is not None and args.dtype != "float16":
        raise ConfigError("--csv keeps rows of float16 alone")
    device = choose_device(args.device)
    if args.heads:
        return _heads(args, device)
    if args.training:
        return _training(args)
    if device.type != "cuda":
        raise ConfigError(
            "only `bench --heads` and `bench --training` run on a CPU: the rest is measured at the published shapes"
        )
    return _precision(args, device) if args.precision else _engine(args)


def _engine(args: argparse.Namespace) -> int:
    from m3agiqa.bench import stages

    settings = stages.StageSettings(
        *(args.images, args.size, args.tokens, args.beams, args.baseline, args.memory_limit_gib),
        *(args.repeats, args.soak, args.lengths, args.dtype == "float8"),
    )
    report = stages.run(settings, _log)
    if args.json:
        print(json.dumps(report.to_json()))
    else:
        Console().print(_table(report))
        if report.soak is not None:
            Console().print(_soaked(report.soak))
    if args.csv is not None:
        _append(report, args.csv)
    return DONE


def _heads(args: argparse.Namespace, device: torch.device) -> int:
    from m3agiqa.bench import heads

    times = heads.run(device, rows=args.rows, repeats=args.repeats)
    if args.json:
        print(json.dumps({**asdict(times), "ratio": times.ratio}))
        return DONE
    table = Table("device", "rows", "tokens", "head, ms", "recurrence, ms", "xlstm's loop, ms", "ratio", "difference")
    package = [
        f"{value:.3g}" if value is not None else "-" for value in (times.package_ms, times.ratio, times.difference)
    ]
    table.add_row(
        *(f"{times.device}, {times.threads} threads", str(times.rows), str(times.tokens)),
        *(f"{times.head_ms:.1f}", f"{times.recurrence_ms:.1f}", *package),
    )
    Console().print(table)
    return DONE


def _training(args: argparse.Namespace) -> int:
    from m3agiqa.bench import state_cache
    from m3agiqa.train.head.settings import HeadTraining

    settings = HeadTraining.load(args.config).model_copy(update={"epochs": args.epochs})
    times = state_cache.run(settings, args.device, images=args.training_images, batch_size=_READ_AT_ONCE, note=_log)
    if args.json:
        print(json.dumps({**asdict(times), "ratio": times.ratio}))
        return DONE
    table = Table("device", "model", "images", "epochs", "from the cache, s", "read anew, s", "ratio", "same losses")
    table.add_row(
        *(f"{times.device}, {times.threads} threads", times.model, str(times.images), str(times.epochs)),
        *(f"{times.from_cache_s:.1f}", f"{times.anew_s:.1f}", f"{times.ratio:.2f}", "yes" if times.same else "no"),
    )
    Console().print(table)
    return DONE


def _precision(args: argparse.Namespace, device: torch.device) -> int:
    import torch

    from m3agiqa.bench import precision
    from m3agiqa.model.shape import Shape

    float8 = args.dtype == "float8"
    dtype = torch.float16 if float8 else getattr(torch, args.dtype)
    settings = precision.PrecisionSettings(dtype, float8, tokens=args.tokens, beams=args.beams)
    found = precision.run(settings, device, Shape(), _log)
    if args.json:
        print(json.dumps(asdict(found)))
        return DONE
    columns = ("scores spread", "from float32", "median", "95th percentile", "alone from batch", "written from read")
    distances = (found.from_float32, found.from_float32_median, found.from_float32_95th)
    numbers = (found.spread, *distances, found.alone_from_batch, found.written_from_read, found.srcc)
    table = Table(*columns, "SRCC with float32", "tokens matching", "descriptions matching")
    table.title = f"{found.dtype}, {found.images} images of mixed sizes, {found.tokens} tokens"
    shares = (found.tokens_matching, found.descriptions_matching)
    table.add_row(*(f"{number:.4f}" for number in numbers), *(f"{100 * share:.1f} %" for share in shares))
    Console().print(table)
    return DONE


def _log(what: str) -> None:
    Console(stderr=True).print(f"{what} ...", style="dim")


def _soaked(soaked: Soak) -> Table:
    table = Table(
        *("batch", "images", "tensors", "tensors, MiB", "device, MiB", "host, MiB"),
        title=f"{len(soaked.batches)} batches in a row, {soaked.captured} graphs captured in them",
    )
    for number, after in enumerate(soaked.batches, start=1):
        sizes = (after.tensor_bytes, after.device_bytes, after.host_bytes)
        table.add_row(str(number), str(after.images), str(after.tensors), *(f"{size / 2**20:.1f}" for size in sizes))
    return table


def _table(report: Report) -> Table:
    from m3agiqa.bench.stages import ORIGINAL_S

    settings = report.settings
    floors = any(row.floors_ms for row in report.rows)
    tokens = f"lengths of {settings['lengths']}" if settings["lengths"] else f"{settings['tokens']} tokens"
    table = Table(
        *("what", "images", "s", "images/s", "of baseline", f"of {ORIGINAL_S} s", "stages, ms"),
        *(["share of floor, %"] if floors else []),
        *("share of the card, %", "GiB"),
        title=f"{report.machine}, {settings['size']}x{settings['size']}, three aspects, "
        f"{settings['beams']} beams, {tokens}, {report.date}; the card multiplies at "
        f"{report.card.flops / 1e12:.0f} TFLOP/s and copies at {report.card.bytes_per_s / 1e12:.2f} TB/s",
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
            *([_shares(row, row.floors_ms)] if floors else []),
            _shares(row, row.card_ms),
            f"{row.memory_gib:.1f}",
        )
    return table


def _shares(row: Measured, floors_ms: Mapping[str, float]) -> str:
    """The floor of each stage, and of all stages, in percent of the time measured."""
    if not floors_ms:
        return "-"
    shares = {name: 100 * floor / row.stages_ms[name] for name, floor in floors_ms.items()}
    shares["all"] = 100 * sum(floors_ms.values()) / (1000 * row.seconds)
    return ", ".join(f"{name} {share:.0f}" for name, share in shares.items())


def _check_columns(path: Path) -> None:
    """Raises: ConfigError: the rows in the file have other columns."""
    if path.exists() and read_text(path).partition("\n")[0].strip() not in ("", ",".join(_COLUMNS)):
        raise ConfigError(f"{quoted(path, PATH_CHARS)} has rows with other columns; name a new file")


def _append(report: Report, path: Path) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    if not path.exists() or not path.stat().st_size:
        writer.writerow(_COLUMNS)
    for row in report.rows:
        settings = report.settings
        writer.writerow(
            [
                *(report.date, report.machine, report.versions["torch"], row.what),
                *(settings["size"], settings["beams"], "" if settings["lengths"] else settings["tokens"]),
                *(max(settings["images"]) if row.what == "engine" else "", settings["memory_limit_gib"]),
                row.images,
                *(f"{row.seconds:.4f}", f"{row.images_per_s:.3f}", f"{row.memory_gib:.2f}"),
                _rounded(row.stages_ms),
                settings["lengths"],
                *(f"{report.card.flops / 1e12:.0f}", f"{report.card.bytes_per_s / 1e12:.2f}", _rounded(row.card_ms)),
            ]
        )
    append(path, text.getvalue())


def _rounded(stages_ms: Mapping[str, float]) -> str:
    return json.dumps({name: round(ms, 1) for name, ms in stages_ms.items()}) if stages_ms else ""


def _counts(value: str) -> tuple[int, ...]:
    try:
        counts = tuple(int(part) for part in value.split(","))
    except ValueError:
        counts = ()
    if not counts or min(counts) < 1:
        raise argparse.ArgumentTypeError(f"{value!r} is not a list of numbers like 1,8,32")
    return counts
