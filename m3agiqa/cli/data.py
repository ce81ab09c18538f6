"""`m3agiqa data`: check a data set, and make conversation files, distorted copies or stand-in descriptions."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError
from rich.console import Console
from rich.text import Text

from m3agiqa.cli import bars
from m3agiqa.cli.arguments import ASPECTS, SEED, scale
from m3agiqa.console import DONE, FAILED
from m3agiqa.contract import Aspect
from m3agiqa.errors import UsageError

if TYPE_CHECKING:
    from m3agiqa.train.data.dataset import DataSet
    from m3agiqa.train.data.splits import Split

HELP = "Check a data set, make its conversation files, or distorted copies and stand-ins to learn from."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    check = commands.add_parser("check", help="Say what is missing, duplicated, unreadable or out of range.")
    check.add_argument("--aspect", choices=ASPECTS, help="hold the rating words against this aspect's scores")
    make = commands.add_parser("conversations", help="Write train.json and val.json from scores and descriptions.")
    make.add_argument("--aspect", choices=ASPECTS, required=True)
    make.add_argument(
        "--descriptions",
        type=Path,
        required=True,
        metavar="F.jsonl",
        help="lines with image, description and, where there are several, aspect, as `m3agiqa describe` writes them",
    )
    make.add_argument(
        "--model",
        default="published-training-wording",
        metavar="PROFILE",
        help="profile whose wording asks the questions",
    )
    make.add_argument("--output", type=Path, metavar="DIR", help="where the files go; default: the data set's folder")
    make.add_argument("--ratio", default="8:2", help="shares of train, validation and test (default 8:2)")
    make.add_argument(
        "--by", default="prompt", choices=["picture", "prompt"], help="what no two parts share: images, or also prompts"
    )
    make.add_argument("--seed", type=SEED, default=42)
    distort = commands.add_parser("distort", help="Write a data set of the images and distorted copies of them.")
    distort.add_argument("--config", required=True, metavar="NAME", help="name under cfg/train, or a path to one")
    distort.add_argument(
        "--descriptions",
        type=Path,
        nargs="*",
        default=[],
        metavar="F.jsonl",
        help="descriptions of the images, to be kept",
    )
    distort.add_argument("--output", type=Path, required=True, metavar="DIR", help="a new folder")
    swap = commands.add_parser("swap", help="Write a data set of the images, and of each under another's prompt.")
    swap.add_argument("--config", required=True, metavar="NAME", help="name under cfg/train, or a path to one")
    swap.add_argument("--descriptions", type=Path, nargs="*", default=[], metavar="F.jsonl", help="to take along")
    swap.add_argument("--output", type=Path, required=True, metavar="DIR", help="a new folder")
    stand_in = commands.add_parser(
        "stand-in", help="Write descriptions for an aspect that nobody described here, from those of similar images."
    )
    stand_in.add_argument("--aspect", choices=ASPECTS, required=True)
    stand_in.add_argument("--descriptions", type=Path, required=True, metavar="F.jsonl", help="lines with mos, 0 to 5")
    stand_in.add_argument("--output", type=Path, required=True, metavar="F.jsonl")
    for command in (check, make):
        add_data_arguments(command)
    stand_in.add_argument("--label", required=True, metavar="COLUMN", help="the scores that stand in for the aspect's")
    for command in (check, make, distort, swap, stand_in):
        command.add_argument("folder", type=Path, metavar="DIR")


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=Path, metavar="DIR", help="where the images lie; default: DIR/images")
    parser.add_argument("--label", metavar="COLUMN", help="the scores; default: the aspect's column in the data sets")
    parser.add_argument(
        "--label-scale", type=scale, default=1.0, metavar="X", help="multiplies scores; 0.05 brings 0..100 to 0..5"
    )


def run(args: argparse.Namespace) -> int:
    from m3agiqa.cli import datasets
    from m3agiqa.train.data.dataset import load_data

    images = getattr(args, "images", None)
    if args.action == "check":
        data = load_data(args.folder, images, with_wrong_rows=True)
    else:
        data = datasets.load(args.folder, images)
    return _ACTIONS[args.action](args, data)


def _check(args: argparse.Namespace, data: DataSet) -> int:
    from m3agiqa.train.data.check import check_data

    errors = Console(stderr=True)
    with bars.shown("reading images") as progress:
        problems = check_data(
            data,
            aspect=Aspect(args.aspect) if args.aspect else None,
            label=args.label,
            scale=args.label_scale,
            progress=progress,
        )
    for problem in problems:
        print(problem)
    prompts = len({entry.prompt for entry in data.entries})
    kinds = "1 kind" if len(problems) == 1 else f"{len(problems) or 'no'} kinds"
    summary = f"{len(data.entries)} images, {prompts} prompts, {kinds} of problem"
    errors.print(Text(summary, style="red" if problems else "green"))
    return FAILED if problems else DONE


def _conversations(args: argparse.Namespace, data: DataSet) -> int:
    from m3agiqa.outputs import check_writable, make_folder
    from m3agiqa.profile import ModelProfile
    from m3agiqa.train.data.conversations import ConversationRecord, write_conversations
    from m3agiqa.train.data.dataset import PARTS
    from m3agiqa.train.data.descriptions import read_descriptions

    aspect = Aspect(args.aspect)
    profile = ModelProfile.load(args.model)
    if aspect not in profile.aspects:
        raise UsageError(f"model {profile.name} has no {aspect}")
    column = data.label_column(aspect, args.label)
    data.check_numbers(column)
    descriptions = read_descriptions(args.descriptions, aspect)
    entries = {entry.name: entry for entry in data.entries}
    folder = args.output or args.folder
    make_folder(folder)
    for part in PARTS:
        check_writable(folder / f"{part}.json", args.descriptions)
    for part, names in _split(args).names(data).items():
        made = [
            ConversationRecord.for_training(
                name, name, entries[name].prompt, descriptions[name], mos, profile.aspects[aspect]
            )
            for name in names
            if name in descriptions and (mos := entries[name].label(column, args.label_scale)) is not None
        ]
        write_conversations(folder / f"{part}.json", made)
        left_out = f"; {len(names) - len(made)} have no description or score" if len(made) < len(names) else ""
        print(f"{folder / f'{part}.json'}: {len(made)} images{left_out}")
    return DONE


def _distort(args: argparse.Namespace, data: DataSet) -> int:
    from m3agiqa.train.data.distort import Distortions, distort

    settings = Distortions.load(args.config)
    with bars.shown("distorting images") as progress:
        images, copies = distort(data, args.descriptions, settings, args.output, progress)
    print(f"{args.output}: {images} images, {copies} distorted copies")
    return DONE


def _swap(args: argparse.Namespace, data: DataSet) -> int:
    from m3agiqa.train.data.swap import Swaps, swap

    images, pairs = swap(data, args.descriptions, Swaps.load(args.config), args.output)
    print(f"{args.output}: {images} images, {pairs} under another's prompt")
    return DONE


def _stand_in(args: argparse.Namespace, data: DataSet) -> int:
    from m3agiqa import jsonl
    from m3agiqa.outputs import check_writable, write
    from m3agiqa.train.data.dataset import TABLE
    from m3agiqa.train.data.standin import stand_ins

    check_writable(args.output, args.descriptions, args.folder / TABLE)
    aspect = Aspect(args.aspect)
    lines = stand_ins(data, data.label_column(aspect, args.label), args.descriptions, aspect)
    write(args.output, jsonl.dump(lines))
    print(f"{args.output}: {len(lines)} descriptions that stand in for {aspect}")
    return DONE


def _split(args: argparse.Namespace) -> Split:
    from m3agiqa.train.data.splits import Split

    try:
        return Split(by=args.by, ratio=tuple(args.ratio.split(":")), seed=args.seed)
    except ValidationError:
        raise UsageError(f"--ratio {args.ratio} is not like 8:2 or 7:1:2") from None


_ACTIONS = {"check": _check, "conversations": _conversations, "distort": _distort, "swap": _swap, "stand-in": _stand_in}
