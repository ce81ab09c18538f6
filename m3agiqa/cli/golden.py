"""`m3agiqa golden`: keeps a profile's golden values, which workers check their model against at start."""

from __future__ import annotations

import argparse

from m3agiqa.cli.arguments import add_device_argument
from m3agiqa.console import DONE

HELP = "Score the golden images in float32, and keep the values that workers check their model against at start."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="PROFILE", help="name under cfg/models, or a path to such a file")
    add_device_argument(parser)


def run(args: argparse.Namespace) -> int:
    from m3agiqa.cli import local
    from m3agiqa.golden import Golden
    from m3agiqa.outputs import check_writable, write
    from m3agiqa.profile import ModelProfile

    profile = ModelProfile.load(args.model).model_copy(update={"dtype": "float32", "precision": None})
    profile.golden.parent.mkdir(exist_ok=True)
    check_writable(profile.golden)
    scorer = local.load(profile, args.device, None, max_batch=1)
    golden = Golden.from_model(scorer.score, scorer.info)
    write(profile.golden, golden.text())
    print(f"{profile.golden}: {len(golden.pictures)} images of {profile.name}")
    return DONE
