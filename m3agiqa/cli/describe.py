"""`m3agiqa describe`: descriptions of a data set's images, from a teacher or from our own adapted model."""

from __future__ import annotations

import argparse
from pathlib import Path

from m3agiqa.cli import describe_model, describe_teacher

HELP = (
    "Describe a data set's images: by a teacher model that is told the scores, or by an adapted model of our own. A "
    "killed run continues."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="the data set: images/ and data.csv")
    by = parser.add_mutually_exclusive_group(required=True)
    by.add_argument(
        "--teacher", choices=sorted(describe_teacher.KEY_VARIABLES), help="protocol of the teacher's server"
    )
    by.add_argument("--model", metavar="PROFILE", help="adapted model; its head need not exist yet")
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="F",
        help="from a teacher: JSON lines, one for each image and aspect; from a model: the conversations as JSON, with "
        "its description as response_0 and its rating word as response_1",
    )
    parser.add_argument("--images", type=Path, metavar="DIR", help="where the images lie; default: DIR/images")
    describe_teacher.add_arguments(parser.add_argument_group("with --teacher"))
    describe_model.add_arguments(parser.add_argument_group("with --model"))


def run(args: argparse.Namespace) -> int:
    return describe_teacher.run(args) if args.model is None else describe_model.run(args)
