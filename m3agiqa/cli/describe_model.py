"""`m3agiqa describe --model`: an adapted model answers the conversations itself; heads are trained on its answers."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from m3agiqa.cli import bars
from m3agiqa.cli.arguments import ASPECTS, add_batch_argument, add_device_argument
from m3agiqa.console import DONE, FAILED
from m3agiqa.contract import Aspect
from m3agiqa.errors import UsageError


def add_arguments(parser: argparse._ArgumentGroup) -> None:
    parser.add_argument("--aspect", choices=ASPECTS)
    parser.add_argument("--conversations", type=Path, metavar="F.json", help="train.json, val.json, ...")
    add_batch_argument(parser)
    add_device_argument(parser)


def run(args: argparse.Namespace) -> int:
    from m3agiqa import hub
    from m3agiqa.cli import datasets
    from m3agiqa.outputs import alone, check_writable
    from m3agiqa.profile import ModelProfile
    from m3agiqa.train.adapter.responses import ResponseTask, respond
    from m3agiqa.train.data.dataset import TABLE
    from m3agiqa.train.head.states import for_one_aspect, load_frozen
    from m3agiqa.train.run import digest

    if args.aspect is None or args.conversations is None:
        raise UsageError("--model needs --aspect and --conversations")
    check_writable(args.output, args.conversations, args.folder / TABLE, kept=True)
    aspect = Aspect(args.aspect)
    profile = for_one_aspect(ModelProfile.load(args.model), aspect)
    resolved = hub.resolve(profile)
    # With the words of the profile: a description depends on the question.
    weights = digest(repr(resolved.revisions), profile.describe.model_dump_json(), str(profile.aspects[aspect]))
    data = datasets.load(args.folder, args.images)
    console = Console(stderr=True)
    with alone(args.output), bars.shown("answering", console) as progress:
        answered, failed = respond(
            ResponseTask(data, aspect, args.conversations, args.output, args.batch_size),
            weights,
            lambda: load_frozen(profile, resolved, args.device, args.batch_size),
            progress,
        )
    for line in failed:
        console.print(line, style="red", markup=False, soft_wrap=True)
    print(f"{args.output}: {answered} answered, {len(failed)} failed")
    return DONE if answered else FAILED
