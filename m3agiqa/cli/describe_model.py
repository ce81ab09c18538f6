"""`m3agiqa describe --model`: an adapted model's own answers, which heads are trained on."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import track

from m3agiqa.cli.arguments import ASPECTS, DONE, FAILED, add_batch_argument
from m3agiqa.contract import Aspect
from m3agiqa.errors import RequestInvalid

if TYPE_CHECKING:
    from m3agiqa.train.responses import Answerer


def add_arguments(parser: argparse._ArgumentGroup) -> None:
    parser.add_argument("--aspect", choices=ASPECTS)
    parser.add_argument("--conversations", type=Path, metavar="F.json", help="train.json, val.json, ...")
    add_batch_argument(parser)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")


def run(args: argparse.Namespace) -> int:
    from m3agiqa.outputs import check_writable
    from m3agiqa.train.data import load_data
    from m3agiqa.train.responses import ResponseTask, respond

    if args.aspect is None or args.conversations is None:
        raise RequestInvalid("--model needs --aspect and --conversations")
    if args.output.resolve() == args.conversations.resolve():
        raise RequestInvalid("--output must be another file than --conversations")
    check_writable(args.output)
    aspect = Aspect(args.aspect)
    console = Console(stderr=True)
    answered, failed = respond(
        ResponseTask(load_data(args.folder, args.images), aspect, args.conversations, args.output, args.batch_size),
        lambda: _load(args.model, aspect, args.device, args.batch_size),
        lambda starts: track(starts, "answering", console=console),
    )
    for line in failed:
        console.print(line, style="red", markup=False, soft_wrap=True)
    print(f"{args.output}: {answered} answered, {len(failed)} failed")
    return DONE if answered or not failed else FAILED


def _load(model: str, aspect: Aspect, device: str, batch_size: int) -> Answerer:
    from m3agiqa import hub
    from m3agiqa.profile import ModelProfile
    from m3agiqa.train.responses import Answerer
    from m3agiqa.train.states import for_one_aspect

    profile = for_one_aspect(ModelProfile.load(model), aspect)
    return Answerer.of(profile, hub.resolve(profile), device, batch_size)
