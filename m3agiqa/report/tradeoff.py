"""What each threshold of a rule costs and catches, as a figure shows it."""

from __future__ import annotations

import numpy as np

from m3agiqa.report.calibration import GRID, Goal, Sample, estimate, interval
from m3agiqa.report.plots import Curve, Tradeoff
from m3agiqa.report.proposal import Found

#: Thresholds that a figure shows.
_POINTS = 100


def curves(sample: Sample, found: Found, confidence: float) -> Tradeoff:
    """Rates by threshold over the range of the positions, with intervals that hold for each threshold by itself."""
    top = min(float(GRID[-1]), max(float(sample.positions.max()), found.threshold.position) + 0.1)
    thresholds = np.linspace(0, top, _POINTS).tolist()

    def curve(goal: Goal) -> Curve:
        bounds = [interval(sample, goal, threshold, 1 - confidence) for threshold in thresholds]
        return Curve(
            [estimate(sample, goal, threshold) for threshold in thresholds],
            [low for low, _ in bounds],
            [high for _, high in bounds],
        )

    return Tradeoff(
        thresholds,
        good=curve(Goal.FALSE_REJECT),
        bad=curve(Goal.CATCH),
        chosen=found.threshold.position,
        promise=(found.goal is Goal.CATCH, found.wanted),
    )
