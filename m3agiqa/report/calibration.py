"""Thresholds that keep a promise about images nobody has labelled yet, from a sample that somebody has.

Images are compared by one number, their position: an image is rejected if its position is below the threshold. The
position is a score, or, where the thresholds of several aspects move together, what `Rule` makes of the scores.

**What is promised.** Let images come one by one from the same source as those of the sample, and be labelled by the
same person. With a probability of `confidence` at least, the threshold that is found keeps its rate (`Goal`) within
what was asked for: among all images that the source will ever give, not only among those of the sample. The probability
is over the draw of the images and the choice of those that were labelled. It is no promise for images of another
source, model or labeller.

**How.** Thresholds are tried in a fixed order, from the one that is sure to keep the promise (nothing is rejected, or
all) to ever riskier ones, and the search ends before the first that a test at level 1 - confidence cannot show to keep
it. So trying many costs nothing: fixed-sequence testing within Learn then Test (Angelopoulos, Bates, Candès, Jordan and
Lei, 2021; for rates that only grow, also Bates et al., "Distribution-free, risk-controlling prediction sets", J. ACM
2021).

- Where each image had the same chance to be labelled, the test is Clopper and Pearson's bound on the rate, among the
  labelled images that it is about.
- Where chances differ, the test bets against the rate, among the same images, each weighted by one over its chance
  (`bounds.against`).

Good images alone decide about false rejects, and bad ones alone about what is caught. So the interval of the rate that
nothing was promised of holds, too, although the threshold was chosen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

import numpy as np

from m3agiqa.contract import Aspect, AspectScore
from m3agiqa.errors import DataError, UsageError
from m3agiqa.report import bounds
from m3agiqa.report.bounds import Bools, Floats

#: Thresholds that are tried, on the MOS scale; they are fixed before any image is seen.
GRID: Floats = np.arange(1, 501) / 100


class Goal(StrEnum):
    #: Share of the good images that are rejected, at most.
    FALSE_REJECT = "false_reject"
    #: Share of the bad images that are rejected, at least.
    CATCH = "catch"


@dataclass(frozen=True)
class Rule:
    """Aspects whose thresholds move together, in fixed proportions; an image below any of them is rejected."""

    #: Threshold of each aspect, as a share of the highest one.
    proportions: Mapping[Aspect, float]

    def position(self, scores: Mapping[Aspect, AspectScore]) -> float | None:
        """The lowest threshold of the rule that does not reject the image; None if an aspect has no score."""
        if not self.proportions.keys() <= scores.keys():
            return None
        return min(scores[aspect].score / share for aspect, share in self.proportions.items())

    def thresholds(self, position: float, goal: Goal) -> dict[Aspect, float]:
        """Each aspect's threshold, rounded to four decimals so that the promise is kept."""
        away = math.floor if goal is Goal.FALSE_REJECT else math.ceil
        return {
            aspect: min(5.0, away(round(position * share * 1e4, 6)) / 1e4) for aspect, share in self.proportions.items()
        }


@dataclass(frozen=True)
class Sample:
    """Images that somebody labelled good or bad, among all that were scored."""

    #: Positions of the labelled images, in any order.
    positions: Floats
    is_good: Bools
    #: Chance that an image was labelled, up to a factor that is the same for all.
    chances: Floats

    @cached_property
    def is_even(self) -> bool:
        """Whether every image had the same chance."""
        return bool(np.ptp(self.chances) == 0) if len(self.chances) else True

    @cached_property
    def weights(self) -> Floats:
        return 1 / self.chances

    def about(self, goal: Goal) -> Bools:
        """The images that a goal's rate is about."""
        return self.is_good if goal is Goal.FALSE_REJECT else ~self.is_good


@dataclass(frozen=True)
class Rate:
    """A rate of a threshold: what it is among the labelled images (weighted), and where it lies in truth."""

    estimate: float
    #: Interval at the confidence of the calibration.
    low: float
    high: float


@dataclass(frozen=True)
class Threshold:
    """A position that keeps a promise, with both rates."""

    position: float
    rates: Mapping[Goal, Rate]


def calibrate(
    sample: Sample, goal: Goal, wanted: float, *, confidence: float = 0.95, upcoming: int | None = None
) -> Threshold:
    """The threshold that does most within a promise: the highest one that keeps false rejects at `wanted` or below, or
    the lowest one that catches `wanted` of the bad images.

    Args:
        upcoming: promise it of so many good (or bad) images that come next, and not of all that ever come.

    Raises:
        DataError: there are too few labels to promise this of any threshold; says how many would do.
        UsageError: labels of unequal chances, and `upcoming`.
    """
    if upcoming is not None and not sample.is_even:
        raise UsageError("labels of unequal chances say nothing of a number of images that come next")
    error = 1 - confidence
    order = GRID if goal is Goal.FALSE_REJECT else GRID[::-1]
    kept = _kept(sample, goal, _allowed(goal, wanted), error, order, upcoming)
    if kept == 0:
        raise DataError(_too_few(sample, goal, wanted, error, upcoming))
    position = float(order[kept - 1])
    promised = (0.0, wanted) if goal is Goal.FALSE_REJECT else (wanted, 1.0)
    rates = {each: Rate(estimate(sample, each, position), *interval(sample, each, position, error)) for each in Goal}
    return Threshold(position, rates | {goal: Rate(rates[goal].estimate, *promised)})


def estimate(sample: Sample, goal: Goal, position: float) -> float:
    """The share of rejected images among those that the goal is about, weighted by one over their chance; NaN if there
    are none.
    """
    about = sample.about(goal)
    weights = sample.weights[about]
    return float(weights[sample.positions[about] < position].sum() / weights.sum()) if about.any() else math.nan


def interval(sample: Sample, goal: Goal, position: float, error: float) -> tuple[float, float]:
    """Bounds on the same share in truth, for a position that these images did not choose."""
    about = sample.about(goal)
    is_hit, weights = sample.positions[about] < position, sample.weights[about]
    if sample.is_even:
        low = bounds.at_least(is_hit.sum(), len(is_hit), error / 2)
        return float(low), float(bounds.at_most(is_hit.sum(), len(is_hit), error / 2))
    return (
        bounds.weighted_at_least(is_hit, weights, error / 2),
        bounds.weighted_at_most(is_hit, weights, error / 2),
    )


def _allowed(goal: Goal, wanted: float) -> float:
    """The share of wrongly treated images that is allowed: good ones rejected, or bad ones not rejected."""
    return wanted if goal is Goal.FALSE_REJECT else 1 - wanted


def _wrong(goal: Goal, positions: Floats, threshold: float) -> Bools:
    return positions < threshold if goal is Goal.FALSE_REJECT else positions >= threshold


def _kept(sample: Sample, goal: Goal, allowed: float, error: float, order: Floats, upcoming: int | None) -> int:
    """How many thresholds of `order` are shown to keep the promise before the first that is not."""
    about = sample.about(goal)
    positions, weights = sample.positions[about], sample.weights[about]
    hits = np.asarray([_wrong(goal, positions, threshold).sum() for threshold in order])
    if sample.is_even:
        is_kept = bounds.is_shown(hits, len(positions), allowed, error, upcoming)
    else:
        in_order = np.argsort(positions if goal is Goal.FALSE_REJECT else -positions, kind="stable")
        is_kept = bounds.against_each(allowed, weights[in_order])[hits] >= -math.log(error)
    return len(order) if is_kept.all() else int(is_kept.argmin())


def _too_few(sample: Sample, goal: Goal, wanted: float, error: float, upcoming: int | None) -> str:
    """Why nothing can be promised, and how many labels it would take if no image were treated wrongly."""
    is_cost = goal is Goal.FALSE_REJECT
    word, done = ("accept", "reject at most") if is_cost else ("reject", "catch at least")
    asked = f"{done} {100 * wanted:g} % of {'good' if is_cost else 'bad'} images"
    allowed, about = _allowed(goal, wanted), sample.about(goal)
    labelled, count = len(about), int(about.sum())
    start = f"too few labels to promise with {100 * (1 - error):g} % confidence to {asked}: "
    there = f"there are {count}, and {labelled} labels in all"
    if sample.is_even:
        needed = bounds.count_needed(allowed, error, upcoming)
        if needed is None:
            return f"{start}of {upcoming} images that come next, no number of labels can promise it"
        more = f" (about {math.ceil(needed * labelled / count)} labels in all)" if count else ""
        return f"{start}it takes {needed} images labelled {word}{more}, even if none is treated wrongly; {there}"
    needed = _needed_uneven(allowed, error, sample.weights[about])
    if needed is None:
        return f"{start}it takes images labelled {word}; {there}"
    return (
        f"{start}it takes about {math.ceil(needed * labelled / count)} labels, chosen as these were, even if none "
        f"is treated wrongly; {there}"
    )


def _needed_uneven(allowed: float, error: float, weights: Floats) -> int | None:
    """Images of these weights that are needed if none is treated wrongly; None if there are no weights."""
    if not len(weights):
        return None
    times, none = 1.0, np.zeros(len(weights), dtype=np.bool_)
    while bounds.against(allowed, none, weights, times=times) < -math.log(error):
        times *= 1.02
    return math.ceil(times * len(weights))
