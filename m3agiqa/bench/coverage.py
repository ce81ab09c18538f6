"""How often calibrated thresholds keep their promise: many repetitions, on real scores or on a known distribution.

    python -m m3agiqa.bench.coverage VERDICTS HUMAN.csv --below 2
    python -m m3agiqa.bench.coverage --synthetic 2000

With verdicts and human scores (a table with `name` or `image_path`, and a column of scores), each repetition splits the
images at random in two halves, calibrates on one, and counts on the other. The rate of the other half is itself an
estimate: where it is above what was promised, the rate of all images of the source may still be within, which is what
is promised unless the promise is of the other images themselves (`--next` of `m3agiqa calibrate`). A known distribution
shows both.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from m3agiqa.console import DONE, number, run, whole
from m3agiqa.contract import Aspect
from m3agiqa.errors import DataError, UsageError
from m3agiqa.report import judged
from m3agiqa.report.bounds import Bools, Floats, at_least, at_most
from m3agiqa.report.calibration import Goal, Sample, calibrate
from m3agiqa.tables import open_table

#: What is promised in turn.
PROMISES = (
    (Goal.FALSE_REJECT, 0.01),
    (Goal.FALSE_REJECT, 0.02),
    (Goal.FALSE_REJECT, 0.05),
    (Goal.CATCH, 0.7),
    (Goal.CATCH, 0.9),
)
_CONFIDENCE = 0.95


class Images(NamedTuple):
    """Scores, and whether a person calls each image good."""

    scores: Floats
    is_good: Bools

    def about(self, goal: Goal) -> Bools:
        return self.is_good if goal is Goal.FALSE_REJECT else ~self.is_good

    def rate(self, goal: Goal, threshold: float) -> float:
        """The share of the images that the goal is about which are below the threshold."""
        return float((self.scores[self.about(goal)] < threshold).mean())

    def part(self, rows: Any) -> Images:
        return Images(self.scores[rows], self.is_good[rows])


@dataclass(frozen=True)
class Near:
    """Labels drawn near a score: the chance falls from 1 there to `floor` at `reach`, and stays `floor` beyond."""

    score: float = 1.5
    reach: float = 0.75
    floor: float = 0.3

    def chances(self, scores: Floats) -> Floats:
        return np.maximum(self.floor, 1 - np.abs(scores - self.score) / self.reach)


@dataclass(frozen=True)
class World:
    """A source of images whose rates are known: scores of good and of bad images are normal, cut to 0..5."""

    good: tuple[float, float] = (3.0, 0.7)
    bad: tuple[float, float] = (1.4, 0.6)
    share_good: float = 0.75

    def draw(self, count: int, random: np.random.Generator) -> Images:
        is_good = random.random(count) < self.share_good
        means, spreads = (np.where(is_good, *pair) for pair in zip(self.good, self.bad, strict=True))
        return Images(np.clip(random.normal(means, spreads), 0, 5), is_good)

    def rate(self, goal: Goal, threshold: float) -> float:
        """The share of all the good, or bad, images that the source will ever give which are below the threshold."""
        return float(stats.norm.cdf(threshold, *(self.good if goal is Goal.FALSE_REJECT else self.bad)))


@dataclass(frozen=True)
class Way:
    """How labels are chosen, and what of a promise is made."""

    name: str
    #: None labels every image.
    near: Near | None = None
    #: Whether the promise is about the other images' own rate, and not about all that will ever come.
    is_of_next: bool = False

    def sample(self, images: Images, random: np.random.Generator) -> Sample:
        chances = np.ones(len(images.scores)) if self.near is None else self.near.chances(images.scores)
        drawn = random.random(len(chances)) < chances
        return Sample(images.scores[drawn], images.is_good[drawn], chances[drawn])


@dataclass
class Tally:
    """What repetitions of one promise came to. A refusal breaks no promise."""

    repeats: int = 0
    broken_on_others: int = 0
    broken_in_truth: int = 0
    thresholds: tuple[float, ...] = ()
    labels: int = 0

    def as_json(self, has_truth: bool) -> dict[str, Any]:
        found: dict[str, Any] = {
            "repeats": self.repeats,
            "refused": self.repeats - len(self.thresholds),
            "labels": round(self.labels / self.repeats),
            "threshold": round(float(np.mean(self.thresholds)), 3) if self.thresholds else None,
        }
        for name, broken in (("others", self.broken_on_others), ("truth", self.broken_in_truth))[: 1 + has_truth]:
            kept = self.repeats - broken
            low, high = at_least(kept, self.repeats, 0.025), at_most(kept, self.repeats, 0.025)
            found[f"kept_{name}"] = kept / self.repeats
            found[f"kept_{name}_ci95"] = [round(float(low), 4), round(float(high), 4)]
        return found


def repeat(
    pairs: Iterator[tuple[Images, Images]],
    goal: Goal,
    wanted: float,
    way: Way,
    random: np.random.Generator,
    truth: Callable[[Goal, float], float] | None = None,
) -> Tally:
    """Calibrate on the first images of each pair, and see whether the promise is kept on the others, and in truth."""
    tally = Tally()
    for mine, others in pairs:
        sample = way.sample(mine, random)
        tally.repeats += 1
        tally.labels += len(sample.positions)
        upcoming = int(others.about(goal).sum()) if way.is_of_next else None
        try:
            threshold = calibrate(sample, goal, wanted, confidence=_CONFIDENCE, upcoming=upcoming).position
        except DataError:
            continue
        tally.thresholds += (threshold,)
        tally.broken_on_others += not _keeps(goal, wanted, others.rate(goal, threshold))
        tally.broken_in_truth += truth is not None and not _keeps(goal, wanted, truth(goal, threshold))
    return tally


def _keeps(goal: Goal, wanted: float, rate: float) -> bool:
    return rate <= wanted if goal is Goal.FALSE_REJECT else rate >= wanted


def halves(images: Images, repeats: int, random: np.random.Generator) -> Iterator[tuple[Images, Images]]:
    """Random halves of the same images."""
    middle = len(images.scores) // 2
    for _ in range(repeats):
        order = random.permutation(len(images.scores))
        yield images.part(order[:middle]), images.part(order[middle:])


def measure(
    source: Images | World, near: Near, *, repeats: int, count: int, seed: int, promises: Sequence[tuple[Goal, float]]
) -> list[dict[str, Any]]:
    """One entry for each promise and way of choosing labels.

    Args:
        source: images to halve, or a world to draw from.
        near: the chances of labels near a threshold.
        count: images that a world gives to each half.
    """
    ways = (Way("all"), Way("all, promise of the others", is_of_next=True), Way("near", near))
    found = []
    for goal, wanted in promises:
        for way in ways:
            random = np.random.default_rng(seed)
            truth = source.rate if isinstance(source, World) else None
            pairs: Iterator[tuple[Images, Images]]
            if isinstance(source, World):
                pairs = ((source.draw(count, random), source.draw(count, random)) for _ in range(repeats))
            else:
                pairs = halves(source, repeats, random)
            tally = repeat(pairs, goal, wanted, way, random, truth)
            result = tally.as_json(has_truth=truth is not None)
            found.append({"goal": goal.value, "wanted": wanted, "labelled": way.name, **result})
    return found


def read_images(verdicts: Path, human: Path, *, aspect: Aspect, column: str, below: float) -> Images:
    """Scores of verdicts, and whether the human score of the same file name is `below` or above.

    Raises:
        DataError: a file is wrong, or they share no image.
    """
    with open_table(human, (column,)) as table:
        name = "name" if "name" in table.columns else "image_path"
        people = {Path(row.values[name]).name: float(row.values[column]) for row in table if row.error is None}
    known = [
        (image.scores[aspect].score, people[Path(image.id).name] >= below)
        for image in judged.read(verdicts)
        if aspect in image.scores and Path(image.id).name in people
    ]
    if not known:
        raise DataError(f"{verdicts} has no score of {aspect} of an image that {human} names")
    scores, is_good = zip(*known, strict=True)
    return Images(np.asarray(scores), np.asarray(is_good))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verdicts", type=Path, nargs="?", metavar="VERDICTS")
    parser.add_argument("human", type=Path, nargs="?", metavar="HUMAN.csv")
    parser.add_argument(
        "--synthetic", type=whole(), metavar="N", help="instead: images in each half, of a known source"
    )
    parser.add_argument("--aspect", choices=[aspect.value for aspect in Aspect], default="quality")
    parser.add_argument("--column", default="mos_quality", help="human scores (default mos_quality)")
    parser.add_argument("--below", type=number(), default=2.0, metavar="MOS", help="human scores that count as bad")
    parser.add_argument("--near", type=number(), default=1.5, metavar="SCORE", help="where labels are denser")
    parser.add_argument("--floor", type=number(most=1.0, is_open=True), default=0.3, help="least chance of a label")
    parser.add_argument("--repeats", type=whole(), default=200)
    parser.add_argument("--seed", type=whole(0), default=0)
    args = parser.parse_args(argv)
    if (args.synthetic is None) == (args.human is None):
        raise UsageError("give VERDICTS and HUMAN.csv, or --synthetic N")
    source: Images | World = World()
    if args.synthetic is None:
        aspect = Aspect(args.aspect)
        source = read_images(args.verdicts, args.human, aspect=aspect, column=args.column, below=args.below)
    near = Near(score=args.near, floor=args.floor)
    count = args.synthetic or 0
    found = measure(source, near, repeats=args.repeats, count=count, seed=args.seed, promises=PROMISES)
    for line in found:
        print(json.dumps(line))
    return DONE


if __name__ == "__main__":
    raise SystemExit(run(main, as_process=True))
