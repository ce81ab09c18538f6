"""`m3agiqa calibrate`: finds thresholds that keep a promise, from labels, and writes a policy with its evidence."""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from m3agiqa.cli.arguments import ASPECTS
from m3agiqa.console import DONE, number, whole
from m3agiqa.contract import Aspect
from m3agiqa.errors import DataError, UsageError
from m3agiqa.quoting import PATH_CHARS, quoted
from m3agiqa.report import sources

if TYPE_CHECKING:
    from pydantic import JsonValue

    from m3agiqa.policy import Policy
    from m3agiqa.report.calibration import Rate
    from m3agiqa.report.judged import Judged
    from m3agiqa.report.labels import Joined, Labels
    from m3agiqa.report.proposal import Found

HELP = "Find thresholds from labelled images that keep a promise, and write a policy with its evidence."

_share = number(most=1.0, is_open=True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="VERDICTS", help=sources.HELP)
    parser.add_argument(
        "labels", type=Path, metavar="LABELS.csv", help="columns id (or image_path), label; page's export"
    )
    goal = parser.add_mutually_exclusive_group(required=True)
    goal.add_argument(
        "--max-false-reject",
        type=_share,
        metavar="SHARE",
        help="reject at most this share of good images, such as 0.01",
    )
    goal.add_argument("--catch", type=_share, metavar="SHARE", help="reject at least this share of bad images")
    parser.add_argument(
        "--review-catch",
        type=_share,
        metavar="SHARE",
        help="also set review_below: at least this share of bad images is rejected or sent to review",
    )
    parser.add_argument(
        "--next",
        type=whole(),
        metavar="N",
        help="promise it of the next N good (or bad) images, instead of all that will ever come",
    )
    parser.add_argument(
        "--aspect",
        nargs="+",
        choices=ASPECTS,
        metavar="NAME",
        help="aspects that reject, their thresholds moving together (default: those by which --policy rejects)",
    )
    parser.add_argument("--policy", default="default", metavar="NAME", help="policy to start from (default: default)")
    parser.add_argument("--model", metavar="NAME[@DIGEST]", help="take the scores of this model alone")
    parser.add_argument("--confidence", type=number(least=0.5, most=0.9999), default=0.95, help="default 0.95")
    parser.add_argument("--output", type=Path, metavar="policies/NAME.yaml", help="write the policy NAME here")
    parser.add_argument("--plot", type=Path, metavar="F.png", help="draw what each threshold costs and catches")
    parser.add_argument("--json", action="store_true", help="print JSON, and nothing else on stdout")


def run(args: argparse.Namespace) -> int:
    from m3agiqa.policy import Policy
    from m3agiqa.report import proposal
    from m3agiqa.report.labels import read_labels

    _check(args)
    policy = Policy.load(args.policy)
    images = _images(args.source, args.model)
    labels = read_labels(args.labels)
    aspects = tuple(map(Aspect, dict.fromkeys(args.aspect or ()))) or _scored(proposal.rejecting(policy), images)
    joined, rejects, review = _search(args, policy, images, labels, aspects)
    found = [rejects[-1], *([review] if review else [])]
    facts = _facts(args, policy, images, labels, joined)
    evidence = proposal.evidence(found, args.confidence, facts)
    _show(args, rejects, review, joined, evidence)
    if args.output is not None:
        version = proposal.next_version(args.output)
        new = proposal.proposed(policy, args.output.stem, version, rejects[-1], review, evidence)
        proposal.write_policy(new, args.output)
        if not args.json:
            print(f"{args.output}: policy {new.name}, version {new.version}, digest {new.ref.digest}")
    if args.plot is not None:
        _draw(args, images, labels, rejects)
    return DONE


def _check(args: argparse.Namespace) -> None:
    from m3agiqa.outputs import check_writable
    from m3agiqa.report import plots

    if args.output is not None:
        if args.output.suffix != ".yaml":
            raise UsageError(f"--output must end in .yaml, as policies do, not {args.output}")
        check_writable(args.output, Path(args.source), args.labels)
    if args.plot is not None:
        plots.check(args.plot, Path(args.source), args.labels)
    if max(args.max_false_reject or 0, args.catch or 0, args.review_catch or 0) >= 1:
        raise UsageError("a share of 1 can be promised by no number of labels; ask for less, such as 0.99")


def _images(source: str, model: str | None) -> list[Judged]:
    """Images that one model scored.

    Raises:
        DataError: there are none, or several models scored them.
    """
    images = [image for image in sources.judged(source) if image.scores]
    if model is not None:
        images = [image for image in images if image.model == model or image.model.partition("@")[0] == model]
    models = Counter(image.model for image in images)
    if len(models) > 1:
        counts = ", ".join(f"{name or '(untold)'}: {count}" for name, count in models.most_common())
        raise DataError(
            f"{_named(source)} has scores of several models ({counts}), which differ in scale; name one by --model"
        )
    if not images:
        raise DataError(f"{_named(source)} has no image with a score" + (f" by {quoted(model)}" if model else ""))
    return images


def _named(source: str) -> str:
    """A source as a message names it: a URL may hold a password."""
    return f"{source.partition('://')[0]}://..." if "://" in source else quoted(source, PATH_CHARS)


def _scored(aspects: tuple[Aspect, ...], images: list[Judged]) -> tuple[Aspect, ...]:
    known = {aspect for image in images for aspect in image.scores}
    if found := tuple(aspect for aspect in aspects if aspect in known):
        return found
    raise DataError(f"no image has a score of {' or '.join(aspects)}; name others by --aspect")


def _search(
    args: argparse.Namespace, policy: Policy, images: list[Judged], labels: Labels, aspects: tuple[Aspect, ...]
) -> tuple[Joined, list[Found], Found | None]:
    """Labels beside scores; thresholds of each aspect alone and, last, of all together; the threshold of review."""
    from m3agiqa.report import proposal
    from m3agiqa.report.calibration import Goal, calibrate
    from m3agiqa.report.labels import join

    goal = Goal.CATCH if args.catch is not None else Goal.FALSE_REJECT
    wanted = args.catch if args.catch is not None else args.max_false_reject
    alone = [proposal.rule(policy, [aspect]) for aspect in aspects] if len(aspects) > 1 else []
    rejects = []
    for rule in [*alone, proposal.rule(policy, aspects)]:
        joined = join(labels, images, rule)
        threshold = calibrate(joined.sample, goal, wanted, confidence=args.confidence, upcoming=args.next)
        rejects.append(proposal.Found(goal, wanted, rule, threshold, upcoming=args.next))
    if args.review_catch is None:
        return joined, rejects, None
    watched = _scored(tuple(policy.aspects), images)
    rule = proposal.rule(policy, watched, "review_below")
    share, sample = args.review_catch, join(labels, images, rule).sample
    held = calibrate(sample, Goal.CATCH, share, confidence=args.confidence, upcoming=args.next)
    return joined, rejects, proposal.Found(Goal.CATCH, share, rule, held, with_review=True, upcoming=args.next)


def _facts(
    args: argparse.Namespace, policy: Policy, images: list[Judged], labels: Labels, joined: Joined
) -> dict[str, JsonValue]:
    from m3agiqa.report.proposal import content_digest

    sample = joined.sample
    method = "Clopper-Pearson" if sample.is_even else "betting with inverse probability weights (Waudby-Smith, Ramdas)"
    good = int(sample.is_good.sum())
    return {
        "method": f"{method}; fixed-sequence testing over thresholds (Learn then Test)",
        "model": images[0].model,
        "started_from": f"{policy.name}@{policy.ref.digest}",
        "images": {"scored": joined.scored, "sha256": content_digest(images)},
        "labels": {
            "accept": good,
            "reject": len(sample.is_good) - good,
            "skip": joined.skipped,
            "chosen": joined.choice.value,
            "sha256": labels.sha256,
        },
    }


def _show(
    args: argparse.Namespace, rejects: list[Found], review: Found | None, joined: Joined, evidence: dict[str, JsonValue]
) -> None:
    if args.json:
        print(json.dumps(_as_json(rejects, review, evidence, args.confidence), indent=2, allow_nan=False))
        return
    from m3agiqa.report.calibration import Goal

    table = Table("an image is rejected if", "of good images", "of bad images")
    for found in [*rejects, *([review] if review else [])]:
        words = " or ".join(f"{aspect} < {threshold:g}" for aspect, threshold in found.thresholds.items())
        rates = found.threshold.rates
        shown = [_rate(rates[goal]) for goal in (Goal.FALSE_REJECT, Goal.CATCH)]
        table.add_row(f"{words} (or is reviewed)" if review is found else words, *shown)
    console = Console()
    console.print(table)
    sample = joined.sample
    console.print(
        f"{len(sample.positions)} labels ({sample.is_good.sum()} accept), {joined.skipped} skipped, of "
        f"{joined.scored} scored images: {joined.choice}",
        *(f"left out: {count} labels {why}" for why, count in joined.unused.items()),
        *(f"promised {promise}" for promise in evidence["promises"] or ()),  # type: ignore[union-attr]
        sep="\n",
        highlight=False,
        soft_wrap=True,
    )


def _rate(rate: Rate) -> str:
    estimate = "-" if math.isnan(rate.estimate) else f"{100 * rate.estimate:.1f} %"
    if rate.low == 0 or rate.high == 1:
        return f"{estimate}, at {f'most {100 * rate.high:.3g}' if rate.low == 0 else f'least {100 * rate.low:.3g}'} %"
    return f"{estimate} ({100 * rate.low:.1f} to {100 * rate.high:.1f})"


def _as_json(
    rejects: list[Found], review: Found | None, evidence: dict[str, JsonValue], confidence: float
) -> dict[str, Any]:
    from m3agiqa.report.proposal import rate_as_json

    return {
        "rules": [
            {
                "reject_below": None if found.with_review else found.thresholds,
                "review_below": found.thresholds if found.with_review else None,
                "rates": {goal: rate_as_json(rate, confidence) for goal, rate in found.threshold.rates.items()},
            }
            for found in [*rejects, *([review] if review else [])]
        ],
        "evidence": evidence,
    }


def _draw(args: argparse.Namespace, images: list[Judged], labels: Labels, rejects: list[Found]) -> None:
    from m3agiqa.report import plots
    from m3agiqa.report.labels import join
    from m3agiqa.report.tradeoff import curves

    panels = {
        " and ".join(found.rule.proportions): curves(join(labels, images, found.rule).sample, found, args.confidence)
        for found in rejects
    }
    plots.save(plots.tradeoff(panels), args.plot)
    if not args.json:
        print(args.plot)
