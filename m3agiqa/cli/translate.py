"""`m3agiqa translate`: moves a policy's thresholds to where a new model's scores need them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from m3agiqa.cli.arguments import SEED
from m3agiqa.console import DONE
from m3agiqa.errors import UsageError
from m3agiqa.report import sources

if TYPE_CHECKING:
    from pydantic import JsonValue

    from m3agiqa.policy import Policy
    from m3agiqa.train.evaluation.comparison import Pair
    from m3agiqa.train.evaluation.translation import Moved

HELP = "Translate a policy's thresholds to a new model's scores, from images that the old and the new one scored."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("old", metavar="OLD", help=f"verdicts of the old model: {sources.HELP}")
    parser.add_argument("new", metavar="NEW", help="verdicts of the new model, of the same images")
    parser.add_argument("--policy", default="default", metavar="NAME", help="the old model's policy (default: default)")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="policies/NAME.yaml", help="write the new policy NAME here"
    )
    parser.add_argument("--seed", type=SEED, default=0, help="seed of the bootstrap (default 0)")


def run(args: argparse.Namespace) -> int:
    from m3agiqa.outputs import check_writable
    from m3agiqa.policy import Policy
    from m3agiqa.report import proposal
    from m3agiqa.train.evaluation.comparison import pair
    from m3agiqa.train.evaluation.translation import translate

    if args.output.suffix != ".yaml":
        raise UsageError(f"--output must end in .yaml, as policies do, not {args.output}")
    check_writable(args.output, Path(args.old), Path(args.new))
    policy = Policy.load(args.policy)
    pairs = pair(list(sources.judged(args.old)), list(sources.judged(args.new))).pairs
    moved, moves = translate(policy, pairs, seed=args.seed)
    version = proposal.next_version(args.output)
    new = moved.model_copy(
        update={"name": args.output.stem, "version": version, "evidence": _evidence(policy, moved, pairs, moves)}
    )
    proposal.write_policy(new, args.output)
    _show(moves, new, args.output)
    return DONE


def _evidence(policy: Policy, moved: Policy, pairs: Sequence[Pair], moves: list[Moved]) -> dict[str, JsonValue]:
    from m3agiqa.report.proposal import content_digest
    from m3agiqa.train.evaluation.comparison import share
    from m3agiqa.train.evaluation.translation import decisions

    olds, news = [a for a, _ in pairs], [b for _, b in pairs]
    before, after = decisions(policy, olds), decisions(moved, news)
    return {
        "method": "isotonic regression of the old model's scores on the new one's; promises of the old policy end here",
        "date": datetime.now(UTC).date().isoformat(),
        "models": {"old": olds[0].model, "new": news[0].model},
        "started_from": f"{policy.name}@{policy.ref.digest}",
        "images": {
            "scored by both": len(pairs),
            "old_sha256": content_digest(olds),
            "new_sha256": content_digest(news),
        },
        "thresholds": {
            f"{move.aspect} {move.field}": {
                "old": move.old,
                "new": move.new,
                "interval": [round(bound, 4) for bound in move.interval],
            }
            for move in moves
        },
        "decisions": {
            "old": {decision: before.count(decision) for decision in dict.fromkeys(before)},
            "new": {decision: after.count(decision) for decision in dict.fromkeys(after)},
            "differ": share(sum(a != b for a, b in zip(before, after, strict=True)), len(pairs)),
        },
    }


def _show(moves: list[Moved], policy: Policy, path: Path) -> None:
    console = Console()
    table = Table("threshold", "old", "new", "95 % interval")
    for move in moves:
        low, high = move.interval
        table.add_row(f"{move.aspect} {move.field}", f"{move.old:g}", f"{move.new:.3f}", f"{low:.3f} to {high:.3f}")
    console.print(table)
    for move in moves:
        if move.is_out_of_reach:
            console.print(f"{move.aspect}: no new score stands for less than {move.old:g}, so {move.field} is 0")
    console.print(f"{path}: policy {policy.name}, version {policy.version}, digest {policy.ref.digest}", soft_wrap=True)
