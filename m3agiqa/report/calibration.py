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
- Where chances differ, the rate is bounded by a product: the share of all scored images on the wrong side of the
  threshold (Clopper and Pearson), times the share of wrongly treated ones among those (by betting, weighted by one over
  the chance), divided by the share of all images that the rate is about (likewise). Each bound has a part of the error
  (Bonferroni).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

import numpy as np

from m3agiqa.contract import Aspect, AspectScore
from m3agiqa.errors import DataError
from m3agiqa.report import bounds
from m3agiqa.report.bounds import Bools, Floats

#: Thresholds that are tried, on the MOS scale; they are fixed before any image is seen.
GRID: Floats = np.arange(1, 501) / 100
#: Parts of the error where chances differ: the share below the threshold, the wrong ones there, the share of a label.
_SIDE_ERROR, _WRONG_ERROR, _LABEL_ERROR = 0.25, 0.5, 0.25
#: Times that a sample is enlarged at most to tell how many labels are needed.
_MOST_TIMES = 1e4


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

    #: Of the labelled images, in any order.
    positions: Floats
    is_good: Bools
    #: Chance that an image was labelled, up to a factor that is the same for all.
    chances: Floats
    #: Positions of all images that were scored, labelled or not.
    everyone: Floats

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
    #: Whether the interval holds although the threshold was chosen by the same labels.
    holds_after_choice: bool


@dataclass(frozen=True)
class Threshold:
    """A position that keeps a promise, with both rates."""

    position: float
    rates: Mapping[Goal, Rate]


def calibrate(sample: Sample, goal: Goal, wanted: float, *, confidence: float = 0.95) -> Threshold:
    """The threshold that does most within a promise: the highest one that keeps false rejects at `wanted` or below, or
    the lowest one that catches `wanted` of the bad images.

    Raises:
        DataError: there are too few labels to promise this of any threshold; says how many would do.
    """
    allowed = _allowed(goal, wanted)
    error = 1 - confidence
    order = GRID if goal is Goal.FALSE_REJECT else GRID[::-1]
    kept = _kept(sample, goal, allowed, error, order)
    if kept == 0:
        raise DataError(_too_few(sample, goal, wanted, error))
    position = float(order[kept - 1])
    promised = (0.0, wanted) if goal is Goal.FALSE_REJECT else (wanted, 1.0)
    other = Goal.CATCH if goal is Goal.FALSE_REJECT else Goal.FALSE_REJECT
    return Threshold(
        position,
        {
            goal: Rate(estimate(sample, goal, position), *promised, holds_after_choice=True),
            # Labels of one kind chose the threshold, and images of the other kind know nothing of it.
            other: Rate(
                estimate(sample, other, position),
                *interval(sample, other, position, error),
                holds_after_choice=sample.is_even,
            ),
        },
    )


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


def _kept(sample: Sample, goal: Goal, allowed: float, error: float, order: Floats) -> int:
    """How many thresholds of `order` are shown to keep the promise before the first that is not."""
    if sample.is_even:
        positions = sample.positions[sample.about(goal)]
        hits = [_wrong(goal, positions, threshold).sum() for threshold in order]
        is_kept = bounds.at_most(hits, len(positions), error) <= allowed
        return int(is_kept.argmin()) if not is_kept.all() else len(order)
    least = _least_share(sample, goal, error)
    for number, threshold in enumerate(order):
        if not _is_shown(sample, goal, allowed * least, error, threshold):
            return number
    return len(order)


def _least_share(sample: Sample, goal: Goal, error: float, times: float = 1.0) -> float:
    """The share of all images that the goal is about, at least."""
    return bounds.weighted_at_least(sample.about(goal), sample.weights, _LABEL_ERROR * error, times=times)


def _is_shown(sample: Sample, goal: Goal, allowed: float, error: float, threshold: float, times: float = 1.0) -> bool:
    """Whether wrongly treated images are shown to be `allowed` of all images at most, where chances differ."""
    count = len(sample.everyone)
    side = bounds.at_most(_wrong(goal, sample.everyone, threshold).sum(), count, _SIDE_ERROR * error)
    here = _wrong(goal, sample.positions, threshold)
    share = allowed / float(side)
    evidence = bounds.against(share, sample.about(goal)[here], sample.weights[here], times=times)
    return evidence >= -math.log(_WRONG_ERROR * error)


def _too_few(sample: Sample, goal: Goal, wanted: float, error: float) -> str:
    """Why nothing can be promised, and how many labels it would take."""
    word = "accept" if goal is Goal.FALSE_REJECT else "reject"
    asked = (
        f"reject at most {100 * wanted:g} % of good images"
        if goal is Goal.FALSE_REJECT
        else f"catch {100 * wanted:g} % of bad images"
    )
    allowed = _allowed(goal, wanted)
    about, labelled = int(sample.about(goal).sum()), len(sample.positions)
    start = f"too few labels to promise with {100 * (1 - error):g} % confidence to {asked}: "
    if sample.is_even:
        needed = bounds.count_needed(allowed, error)
        more = f", about {math.ceil(needed * labelled / about)} labels in all" if about else ""
        return (
            f"{start}that takes {needed} images labelled {word}{more}, even if none of these is treated wrongly; "
            f"there are {about}, and {labelled} labels"
        )
    return start + _too_few_uneven(sample, goal, allowed, error, word)


def _too_few_uneven(sample: Sample, goal: Goal, allowed: float, error: float, word: str) -> str:
    first = GRID[0] if goal is Goal.FALSE_REJECT else GRID[-1]
    labelled, times = len(sample.positions), 1.0
    while times < _MOST_TIMES:
        times *= 1.1
        least = _least_share(sample, goal, error, times)
        if _is_shown(sample, goal, allowed * least, error, float(first), times):
            return f"that takes about {math.ceil(times * labelled)} labels, chosen as these {labelled} were"
    share = estimate_share(sample, goal)
    if share == 0:
        return f"none of the {labelled} labels is {word}"
    images = bounds.count_needed(min(allowed * share, 0.5), _SIDE_ERROR * error)
    return f"that takes about {images} scored images, labelled or not, and there are {len(sample.everyone)}"


def estimate_share(sample: Sample, goal: Goal) -> float:
    """The share of all images that the goal is about, weighted by one over the labelled images' chances."""
    return float(sample.weights[sample.about(goal)].sum() / sample.weights.sum()) if len(sample.weights) else 0.0
