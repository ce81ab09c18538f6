"""`m3agiqa redecide`: decides anew from scores that verdicts hold, and delivers what came of it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from m3agiqa.cli import bars
from m3agiqa.cli.arguments import add_source_arguments
from m3agiqa.cli.policy import show_moves
from m3agiqa.console import DONE, FAILED
from m3agiqa.contract import PolicyRef, Verdict
from m3agiqa.errors import DataError
from m3agiqa.quoting import PATH_CHARS, quoted

if TYPE_CHECKING:
    from m3agiqa.policy import Policy
    from m3agiqa.report.changes import Moves
    from worker.delivery.redelivery import Owed, Tally

HELP = "Decide anew from stored scores, without a model, and deliver what changed if asked."

CHANGED, ALL = "changed", "all"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_source_arguments(parser)
    parser.add_argument("--policy", required=True, metavar="P", help="name of a policy, or a path to one")
    parser.add_argument(
        "--only-policy", metavar="NAME", help="leave out what other policies than this one decided before"
    )
    parser.add_argument(
        "--output", "-o", type=Path, required=True, metavar="OUT.jsonl", help="every verdict as it is decided anew"
    )
    parser.add_argument(
        "--deliver",
        nargs="?",
        const=CHANGED,
        choices=[CHANGED, ALL],
        help=f"send verdicts to their receivers: those whose decision {CHANGED} (default), or {ALL}; "
        "OUT.jsonl.delivered says which have theirs, and the same command goes on from there",
    )


def run(args: argparse.Namespace) -> int:
    from m3agiqa.outputs import alone, check_writable
    from m3agiqa.policy import Policy

    policy = Policy.load(args.policy)
    inputs = [Path(args.source), *([args.requests] if args.requests else [])]
    check_writable(args.output, *inputs, kept=args.deliver is not None)
    with alone(args.output):
        return _run(args, policy) if args.deliver is None else _run_and_deliver(args, policy)


def _run(args: argparse.Namespace, policy: Policy) -> int:
    from m3agiqa.report.changes import Moves

    moves = Moves()
    for _ in _decided(args, policy, datetime.now(UTC), moves):
        pass
    _show(policy.ref, moves)
    return DONE


def _run_and_deliver(args: argparse.Namespace, policy: Policy) -> int:
    from m3agiqa.report import submitted
    from m3agiqa.report.changes import Moves
    from worker.delivery.redelivery import Record, Redelivery, Tally, owed
    from worker.settings import Settings

    settings = Settings.from_environment()
    record = Record(args.output.with_name(f"{args.output.name}.delivered"), policy.ref)
    delivery = Redelivery(settings, args.output, policy.ref, record)
    requests = submitted.read(args.requests) if args.requests else {}
    # A request that was tried anew has several verdicts, of which the latest stands.
    latest: dict[str, tuple[datetime, list[Owed] | None]] = {}
    moves = Moves()
    for verdict, start, size in _decided(args, policy, record.at, moves):
        assert verdict.redecided is not None, "it was decided anew"
        known = latest.get(verdict.name)
        if known is None or known[0] < verdict.scored_at:
            is_wanted = args.deliver == ALL or verdict.decision is not verdict.redecided.decision
            found = owed(verdict, requests.get(verdict.name), start, size) if is_wanted else None
            latest[verdict.name] = verdict.scored_at, found
    wanted = [found for _, found in latest.values() if found is not None]
    items, nowhere = [item for found in wanted for item in found], sum(not found for found in wanted)
    _show(policy.ref, moves)
    tally = Tally()
    try:
        with bars.counting() as bar:
            task = bar.add_task("delivering", total=len(items))
            delivery.run(items, tally, lambda: bar.advance(task))
    finally:
        _tell(tally, nowhere)
    return FAILED if tally.failed else DONE


def _decided(
    args: argparse.Namespace, policy: Policy, at: datetime, moves: Moves
) -> Iterator[tuple[Verdict, int, int]]:
    """Write every image to the output as it is decided anew. Yields verdicts, where the line of each begins, and its
    bytes.
    """
    from m3agiqa.outputs import whole
    from m3agiqa.report.anew import anew
    from m3agiqa.report.sources import judged

    start = 0
    with whole(args.output) as file:
        for item in judged(args.source):
            if args.only_policy is not None and item.policy.partition("@")[0] != args.only_policy:
                continue
            lines = anew(item, policy, at)
            for line in lines:
                data = line.model_dump_json().encode()
                file.write(data + b"\n")
                if isinstance(line, Verdict):
                    yield line, start, len(data)
                elif args.deliver is not None:
                    raise DataError(f"{args.source}: rows of `m3agiqa batch` have no receivers; leave out --deliver")
                start += len(data) + 1
            if lines:
                moves.add(item.decision, lines[0].decision)


def _show(policy: PolicyRef, moves: Moves) -> None:
    console = Console(highlight=False)
    console.print(Text(f"by {policy.label}: {moves.total} images, {moves.stricter} stricter, {moves.milder} milder"))
    console.print(show_moves(moves))


def _tell(tally: Tally, nowhere: int) -> None:
    console = Console(highlight=False)
    earlier = f", {tally.known} by an earlier run" if tally.known else ""
    console.print(Text(f"delivered {tally.delivered}{earlier}"))
    if nowhere:
        console.print(Text(f"{nowhere} have no receiver that is known: see --requests, or M3AGIQA_ECHO_REQUEST"))
    for receiver, (count, message) in sorted(tally.failed.items()):
        console.print(Text(f"{quoted(receiver, PATH_CHARS)}: {count} failed: {message}", style="red"))
