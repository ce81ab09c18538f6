"""`m3agiqa policy`: checks a policy, and shows what another one would change."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from m3agiqa.cli.arguments import add_source_arguments
from m3agiqa.console import DONE
from m3agiqa.contract import Aspect, AspectScore, Decision, Failure, Rating
from m3agiqa.quoting import PATH_CHARS, quoted

if TYPE_CHECKING:
    from m3agiqa.policy import Policy, Thresholds
    from m3agiqa.report.changes import Changes, Moves

HELP = "Check a policy, or show what another policy would decide about images that were scored."

#: What a threshold is tried with: as little below it as scores are shown.
_STEP = 0.01
#: An image of which nothing could be scored.
_FAILED = Failure(code="fetch_refused", message="", retryable=False)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    check = actions.add_parser("check", help="Validate a policy, and say what it decides at its edges.")
    check.add_argument("policy", metavar="P", help="name of a policy, or a path to one")
    diff = actions.add_parser("diff", help="Show what would change from one policy to another.")
    diff.add_argument("old", metavar="OLD", help="name of a policy, or a path to one")
    diff.add_argument("new", metavar="NEW")
    add_source_arguments(diff)
    diff.add_argument("--json", action="store_true", help="print the counts as JSON, and nothing else on stdout")
    diff.add_argument(
        "--flips",
        type=Path,
        metavar="F.jsonl",
        help="write the images about which NEW decides differently, for `m3agiqa report`",
    )


def run(args: argparse.Namespace) -> int:
    return _check(args) if args.action == "check" else _diff(args)


def _check(args: argparse.Namespace) -> int:
    from m3agiqa.policy import Policy

    policy = Policy.load(args.policy)
    console = Console(highlight=False)
    console.print(Text(f"{policy.ref.label}, version {policy.version}, is valid"))
    table = Table("an image", "is decided", "because")
    for what, (decision, reasons) in edges(policy):
        table.add_row(Text(what), decision, Text("; ".join(reasons)))
    console.print(table)
    for line in remarks(policy):
        console.print(Text(line))
    return DONE


def _decided(policy: Policy, scores: dict[Aspect, float], asked: Sequence[Aspect]) -> tuple[Decision, tuple[str, ...]]:
    """The decision about an image whose scores its prompt did not move."""
    return policy.decide(_scored(scores), asked, neutral=scores)


def edges(policy: Policy) -> Iterator[tuple[str, tuple[Decision, tuple[str, ...]]]]:
    """What a policy decides at its edges: words for an image, then the decision with its reasons."""
    best, every = dict.fromkeys(Aspect, 5.0), tuple(Aspect)
    yield "every aspect 5.00", _decided(policy, best, every)
    yield "every aspect 0.00", _decided(policy, dict.fromkeys(Aspect, 0.0), every)
    for aspect, thresholds in policy.aspects.items():
        for score in _around(thresholds):
            yield f"{aspect} {score:.2f}, the rest 5.00", _decided(policy, {**best, aspect: score}, every)
    for aspect in Aspect:
        rest = {other: 5.0 for other in Aspect if other is not aspect}
        yield f"{aspect} without a score, the rest 5.00", _decided(policy, rest, every)
        if aspect not in policy.aspects:
            yield f"only {aspect} asked for, 5.00", _decided(policy, {aspect: 5.0}, [aspect])
    yield "not to be had, or no image", policy.decide({}, every, _FAILED)


def remarks(policy: Policy) -> Iterator[str]:
    """What a policy's author may not have meant."""
    silent = [aspect for aspect in Aspect if not (found := policy.aspects.get(aspect)) or not found.review_below]
    if silent:
        yield f"{', '.join(silent)}: no score changes the decision"
    if not any(found.reject_below for found in policy.aspects.values()):
        yield "no image is ever rejected"
    if Decision.ACCEPT in (policy.on_missing, policy.on_failure):
        yield "an image that could not be scored, or not in whole, may be accepted"
    if policy.prompt_guard is not None:
        yield "what would be accepted is scored once more under a neutral prompt, or else goes to review"
    if policy.sample_review:
        yield f"{100 * policy.sample_review:g} % of what is accepted goes to review, drawn by request id"


def _around(thresholds: Thresholds) -> list[float]:
    """Scores at each threshold, and a little below; none at 0, below which no score lies."""
    found = sorted({thresholds.reject_below, thresholds.review_below} - {0.0})
    return [score for threshold in found for score in (max(0.0, threshold - _STEP), threshold)]


def _scored(scores: dict[Aspect, float]) -> dict[Aspect, AspectScore]:
    return {
        aspect: AspectScore(score=score, rating=Rating.from_score(score), description="", slices=0, cut_tokens=0)
        for aspect, score in scores.items()
    }


def _diff(args: argparse.Namespace) -> int:
    from m3agiqa.outputs import check_writable
    from m3agiqa.policy import Policy
    from m3agiqa.report.changes import Changes

    old, new = Policy.load(args.old), Policy.load(args.new)
    if args.flips is not None:
        check_writable(args.flips, Path(args.source), *([args.requests] if args.requests else []))
    changes = Changes()
    _compare(args, old, new, changes)
    if args.json:
        print(json.dumps({"old": old.ref.label, "new": new.ref.label, **changes.to_json()}, indent=2))
    else:
        _show(old, new, changes)
    return DONE


def _compare(args: argparse.Namespace, old: Policy, new: Policy, changes: Changes) -> None:
    from m3agiqa.outputs import whole
    from m3agiqa.report.anew import flipped
    from m3agiqa.report.sources import judged

    at = datetime.now(UTC)
    with whole(args.flips) if args.flips is not None else nullcontext() as flips:
        for item in judged(args.source, args.requests):
            if changes.compare(item, old, new) and flips is not None:
                flips.writelines(line.model_dump_json().encode() + b"\n" for line in flipped(item, old, new, at))


def _show(old: Policy, new: Policy, changes: Changes) -> None:
    console = Console(highlight=False)
    console.print(Text(f"{old.ref.label} -> {new.ref.label}: {changes.all.total} images"))
    console.print(show_moves(changes.all))
    table = Table("what changes", "images", "stricter", "milder")
    for name, moves in changes.groups():
        table.add_row(Text(quoted(name, PATH_CHARS)), str(moves.total), str(moves.stricter), str(moves.milder))
    console.print(table)


def show_moves(moves: Moves) -> Table:
    """A table of what was decided before, line by line, and after."""
    table = Table("from \\ to", *Decision)
    for before in Decision:
        table.add_row(before, *(str(moves.images[before, after]) for after in Decision))
    return table
