"""`m3agiqa train`: trains a head on the hidden states of a frozen model."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from m3agiqa.cli import bars
from m3agiqa.cli.arguments import ASPECTS, add_batch_argument, add_device_argument, scale
from m3agiqa.console import DONE, whole
from m3agiqa.contract import Aspect

if TYPE_CHECKING:
    from m3agiqa.train.head.fitting import Epoch

HELP = "Train an aspect's head on human scores; the frozen model reads each image once. A killed run continues."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="the data set: images/ and data.csv")
    parser.add_argument("--aspect", choices=ASPECTS, required=True)
    parser.add_argument("--config", required=True, metavar="NAME", help="name under cfg/train, or a path to one")
    parser.add_argument("--run", type=Path, required=True, metavar="RUN", dest="run_folder", help="folder of this run")
    parser.add_argument("--model", metavar="PROFILE", help="overrides the configuration's")
    parser.add_argument(
        "--descriptions",
        type=Path,
        metavar="F",
        help=".jsonl, or a conversation file, with the model's own answers; default: the model describes again",
    )
    parser.add_argument("--images", type=Path, metavar="DIR", help="where the images lie; default: DIR/images")
    parser.add_argument("--label", metavar="COLUMN", help="the scores; default: the aspect's column in the data sets")
    parser.add_argument(
        "--label-scale",
        type=scale,
        metavar="X",
        help="multiplies scores; 0.05 brings 0..100 to 0..5; overrides the configuration's",
    )
    parser.add_argument("--cache", type=Path, metavar="DIR", help="for hidden states; default: RUN/cache")
    parser.add_argument("--epochs", type=whole(), metavar="N", help="overrides the configuration's")
    add_batch_argument(parser)
    add_device_argument(parser)


def run(args: argparse.Namespace) -> int:
    from m3agiqa.train.data.dataset import load_data
    from m3agiqa.train.data.descriptions import read_descriptions
    from m3agiqa.train.head.fitting import RunFolder, best_epoch
    from m3agiqa.train.head.settings import HeadTraining
    from m3agiqa.train.head.training import HeadTask, train_head

    settings = HeadTraining.load(args.config)
    changes = {"model": args.model, "epochs": args.epochs, "label_scale": args.label_scale}
    settings = settings.model_copy(update={key: value for key, value in changes.items() if value is not None})
    aspect = Aspect(args.aspect)
    data = load_data(args.folder, args.images)
    task = HeadTask(
        data=data,
        aspect=aspect,
        label=data.label_column(aspect, args.label),
        settings=settings,
        batch_size=args.batch_size,
        descriptions=None if args.descriptions is None else read_descriptions(args.descriptions, aspect),
    )
    errors = Console(stderr=True)
    with bars.shown("reading images", errors) as progress:
        history = train_head(
            task,
            args.run_folder,
            args.cache or args.run_folder / "cache",
            args.device,
            progress=progress,
            report=lambda epoch: errors.print(Text(_line(epoch)), soft_wrap=True),
            note=lambda text: errors.print(Text(text), soft_wrap=True),
        )
    best = history[best_epoch(history)]
    print(f"best epoch {best['epoch']}: {_line(best)}\n{RunFolder(args.run_folder).best}")
    return DONE


def _line(epoch: Epoch) -> str:
    numbers = (f"{name} {'-' if value is None else f'{value:.4f}'}" for name, value in list(epoch.items())[1:-1])
    return f"epoch {epoch['epoch']}  {'  '.join(numbers)}  {epoch['seconds']} s"
