"""`m3agiqa score`: scores one image, and prints its verdict."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from m3agiqa.cli.arguments import add_scoring_arguments, wanted_aspects
from m3agiqa.console import DONE, FAILED, text
from m3agiqa.contract import Aspect, Decision, Failure, Verdict
from m3agiqa.errors import ConfigError, M3AGIQAError

if TYPE_CHECKING:
    from m3agiqa.policy import Policy

HELP = "Score one image."

_COLOUR = {Decision.ACCEPT: "green", Decision.REVIEW: "yellow", Decision.REJECT: "red"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", type=Path, metavar="IMAGE", help="a file; `m3agiqa-submit` takes URLs")
    parser.add_argument("--prompt", required=True, type=text, metavar="TEXT", help="what the image was generated from")
    add_scoring_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the verdict as JSON, and nothing else on stdout")
    parser.add_argument("--output", type=Path, metavar="F", help="write the verdict as JSON to a file")


def run(args: argparse.Namespace) -> int:
    from m3agiqa.outputs import check_writable, write
    from m3agiqa.policy import Policy

    policy = Policy.load(args.policy)
    if args.output is not None:
        check_writable(args.output, args.image, *(Path(name) for name in (args.model, args.policy) if name))
    verdict = _score(args, policy)
    try:
        if args.output is not None:
            write(args.output, verdict.model_dump_json(indent=2) + "\n")
    finally:
        # Printed even where the file cannot be written: no verdict is lost.
        if args.json:
            # ASCII is valid JSON in whatever encoding stdout has.
            print(json.dumps(verdict.model_dump(mode="json"), indent=2))
        else:
            _show(verdict)
    return DONE if verdict.status == "scored" else FAILED


def _score(args: argparse.Namespace, policy: Policy) -> Verdict:
    from m3agiqa.cli import local
    from m3agiqa.files import read_job
    from m3agiqa.guard import guarded
    from m3agiqa.jobs import Scores
    from m3agiqa.verdict import LocalRequest, assemble

    request = LocalRequest()
    aspects = wanted_aspects(args.aspect)
    wanted = aspects or tuple(Aspect)
    image = model = None
    outcome: Scores | Failure
    try:
        job = read_job(args.image, args.prompt, aspects)
        image = job.image.info
        scorer = local.load(args.model, args.device, aspects, max_batch=1)
        model = scorer.info
        wanted = aspects or scorer.aspects
        outcome = guarded(job, scorer.score([job])[0], wanted, policy, lambda job: scorer.score([job])[0])
    except ConfigError:
        raise
    except M3AGIQAError as error:
        outcome = Failure.from_error(error)
    return assemble(request, outcome, wanted, policy=policy, model=model, image=image)


def _show(verdict: Verdict) -> None:
    console = Console(highlight=False)
    colour = _COLOUR[verdict.decision]
    console.print(Text.assemble("decision: ", (verdict.decision.upper(), f"bold {colour}")))
    for reason in verdict.reasons:
        console.print(Text(f"  {reason}"))
    if verdict.error is not None:
        console.print(Text(f"error: {verdict.error.code}: {verdict.error.message}", style="red"))
    if verdict.aspects:
        table = Table("aspect", "score", "rating")
        for aspect, scored in verdict.aspects.items():
            table.add_row(aspect, f"{scored.score:.2f}", scored.rating)
        console.print(table)
    for aspect, scored in verdict.aspects.items():
        console.print(Text(f"\n{aspect}: {scored.description}"))
