"""Arguments that several commands share."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from m3agiqa.console import number, whole
from m3agiqa.contract import Aspect
from m3agiqa.report import sources

#: Type of a seed: torch, numpy and Python all take it.
SEED = whole(0, 2**32 - 1)
#: Type of a factor of scores.
scale = number(is_open=True)

#: Aspects as strings: argparse would show the members of an enumeration in their long form.
ASPECTS = [aspect.value for aspect in Aspect]
ALL = "all"


def add_scoring_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--aspect",
        nargs="+",
        action="extend",
        choices=[*ASPECTS, ALL],
        metavar="NAME",
        help=f"one or more of {', '.join(Aspect)}, or {ALL} (default)",
    )
    add_model_arguments(parser)
    parser.add_argument("--policy", default="default", metavar="NAME", help="name of a policy, or a path to one")


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        metavar="PROFILE",
        help="name of a profile, or a path to one; default `published` where there is a GPU and it is "
        "downloaded, else `mini`",
    )
    add_device_argument(parser)


def add_device_argument(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    parser.add_argument("--device", default="auto", type=_device, help="auto, cpu, cuda or cuda:N")


def add_batch_argument(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    parser.add_argument(
        "--batch-size",
        type=whole(most=65_536),
        default=8,
        metavar="N",
        help="images the model takes together (default 8)",
    )


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of a command that reads verdicts: `source` and `requests`, as `m3agiqa.report.sources` takes them."""
    parser.add_argument("source", metavar="VERDICTS", help=sources.HELP)
    parser.add_argument("--requests", type=Path, metavar="F", help=sources.REQUESTS_HELP)


def wanted_aspects(names: list[str] | None) -> tuple[Aspect, ...] | None:
    """The aspects of `--aspect`; None for all of the model's."""
    if names is None or ALL in names:
        return None
    return tuple(Aspect(name) for name in dict.fromkeys(names))


def _device(value: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", value):
        raise argparse.ArgumentTypeError(f"{value!r} is not auto, cpu, cuda or cuda:N")
    return value
