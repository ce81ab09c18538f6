"""`m3agiqa pretrain`: a small base from nothing."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import track
from rich.text import Text

from m3agiqa.cli.arguments import add_device_argument
from m3agiqa.console import DONE, whole

if TYPE_CHECKING:
    import torch

HELP = "Train a small base from nothing, on a data set's images, scores and conversations. A killed run continues."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="the data set: images/ and data.csv")
    parser.add_argument("--config", default="mini-base", metavar="NAME", help="name under cfg/train, or a path to one")
    parser.add_argument("--run", type=Path, required=True, metavar="RUN", dest="run_folder", help="folder of this run")
    parser.add_argument(
        "--conversations",
        type=Path,
        nargs="+",
        required=True,
        metavar="F.json",
        help="as `m3agiqa data conversations` writes them, of one aspect or several",
    )
    parser.add_argument("--images", type=Path, metavar="DIR", help="where the images lie; default: DIR/images")
    parser.add_argument(
        "--steps", type=whole(), metavar="N", help="that teach the tower; overrides the configuration's"
    )
    parser.add_argument("--text-steps", type=whole(), metavar="N", help="that teach the language model; likewise")
    add_device_argument(parser)


def run(args: argparse.Namespace) -> int:
    from m3agiqa.engine.loading import choose_device
    from m3agiqa.train.base.material import Progress
    from m3agiqa.train.base.pretrain import pretrain
    from m3agiqa.train.base.settings import Pretraining
    from m3agiqa.train.data.conversations import read_conversations
    from m3agiqa.train.data.dataset import load_data

    settings = Pretraining.load(args.config)
    changes = {"steps": args.steps, "text_steps": args.text_steps}
    settings = settings.model_copy(update={key: value for key, value in changes.items() if value is not None})
    conversations = [item for path in args.conversations for item in read_conversations(path)]
    errors = Console(stderr=True)

    def images(loaded: Iterable[torch.Tensor], count: int) -> Iterable[torch.Tensor]:
        return track(loaded, "reading images", total=count, console=errors)

    started = time.perf_counter()
    base = pretrain(
        load_data(args.folder, args.images),
        conversations,
        settings,
        args.run_folder,
        choose_device(args.device),
        Progress(
            images,
            lambda steps: track(steps, "training", console=errors),
            lambda numbers: errors.print(Text(_line(numbers)), soft_wrap=True),
            lambda text: errors.print(Text(text), soft_wrap=True),
        ),
    )
    print(f"{base}: {time.perf_counter() - started:.0f} s")
    return DONE


def _line(numbers: dict[str, float]) -> str:
    return "  ".join(
        f"{name} {value:g}" if name in ("epoch", "step") else f"{name} {value:.4f}" for name, value in numbers.items()
    )
