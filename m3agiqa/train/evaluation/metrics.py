"""How well scores follow human ones: SRCC, PLCC and KRCC with bootstrap intervals, over all images and within groups.

An estimate that cannot be computed is None with a reason, never NaN.
"""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

Floats = NDArray[np.float64]

#: Resamples that a bootstrap interval is made of, and the share of them that it covers.
RESAMPLES = 1000
COVERAGE = 0.95
#: Pairs below which no correlation is given: two points always correlate perfectly.
MIN_PAIRS = 3


@dataclass(frozen=True)
class Estimate:
    """A correlation with its 95 % interval, or why there is none."""

    value: float | None
    interval: tuple[float, float] | None = None
    reason: str | None = None


def srcc(scores: Floats, labels: Floats) -> float:
    """Spearman's rank correlation; NaN where one side is constant."""
    return plcc(stats.rankdata(scores), stats.rankdata(labels))


def plcc(scores: Floats, labels: Floats) -> float:
    """Pearson's correlation; NaN where one side is constant."""
    x, y = scores - scores.mean(), labels - labels.mean()
    scale = math.sqrt((x @ x) * (y @ y))
    return float(x @ y) / scale if scale > 0 else math.nan


def krcc(scores: Floats, labels: Floats) -> float:
    """Kendall's tau-b; NaN where one side is constant, or there are fewer than MIN_PAIRS pairs."""
    if len(scores) < MIN_PAIRS:
        return math.nan
    # The exact p-value, which we do not read, would take longer than tau itself.
    return float(stats.kendalltau(scores, labels, method="asymptotic").statistic)


def logistic(scores: Floats, b1: float, b2: float, b3: float, b4: float, b5: float) -> Floats:
    """The five-parameter logistic that maps scores to human ones (Sheikh et al., 2006)."""
    curve: Floats = b1 * (0.5 - 1 / (1 + np.exp(np.clip(b2 * (scores - b3), -500, 500)))) + b4 * scores + b5
    return curve


def fit_logistic(scores: Floats, labels: Floats) -> Callable[[Floats], Floats]:
    """Fit the logistic with the least squared error; it is a straight line where no fit is better than that line."""
    slope, offset = np.polyfit(scores, labels, 1)
    best = (0.0, 0.0, float(scores.mean()), float(slope), float(offset))
    error = float(((logistic(scores, *best) - labels) ** 2).sum())
    spread = float(np.ptp(labels))
    # Five parameters fit any five points.
    steep = (1 / scores.std(), 4 / scores.std()) if len(scores) > len(best) else ()
    for steepness in steep:
        start = (math.copysign(spread, slope), steepness, scores.mean(), 0.0, labels.mean())
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optimize.OptimizeWarning)
                found, _ = optimize.curve_fit(logistic, scores, labels, p0=start, maxfev=20_000)
        except RuntimeError:
            continue
        fitted = float(((logistic(scores, *found) - labels) ** 2).sum())
        if fitted < error:
            best, error = tuple(found), fitted
    return lambda values: logistic(values, *best)


#: Metrics of all images together by name, and whether the logistic maps the scores to the labels first.
_POOLED = {"srcc": (srcc, False), "plcc": (plcc, False), "plcc_logistic": (plcc, True), "krcc": (krcc, False)}


def correlations(
    scores: Sequence[float],
    labels: Sequence[float],
    groups: Sequence[str] | None = None,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Estimate]:
    """All metrics of one aspect by name: srcc, plcc, plcc_logistic, krcc, srcc_within_groups.

    An interval spans percentiles over seeded resamples of the images; for srcc_within_groups, each group's images are
    resampled apart. The logistic is fitted once, to all images.
    """
    x, y = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    within = _within_groups(x, y, groups, seed, resamples)
    reason = _why_none(x, y)
    if reason is not None:
        return {**dict.fromkeys(_POOLED, Estimate(None, reason=reason)), "srcc_within_groups": within}
    mapped = {False: x, True: fit_logistic(x, y)(x)}
    draws = resampled(len(x), seed, resamples)
    pooled = {name: _estimate(metric, mapped[fitted], y, draws) for name, (metric, fitted) in _POOLED.items()}
    return {**pooled, "srcc_within_groups": within}


def srcc_by_group(scores: Floats, labels: Floats, groups: Sequence[str]) -> dict[str, float]:
    """SRCC of each group that has one, by name."""
    return {
        group: srcc(scores[rows], labels[rows])
        for group, rows in _rows_by_group(groups).items()
        if _why_none(scores[rows], labels[rows]) is None
    }


def as_json(estimates: dict[str, Estimate]) -> dict[str, Any]:
    """Values by name, intervals as `<name>_ci95`, and `reasons` for what is null."""
    return {
        **{name: estimate.value for name, estimate in estimates.items()},
        **{f"{name}_ci95": estimate.interval for name, estimate in estimates.items()},
        "reasons": {name: estimate.reason for name, estimate in estimates.items() if estimate.reason is not None},
    }


def _why_none(scores: Floats, labels: Floats) -> str | None:
    if len(scores) < MIN_PAIRS:
        return f"{len(scores)} scored images with a label; at least {MIN_PAIRS} are needed"
    if np.ptp(scores) == 0:
        return "all scores are equal"
    if np.ptp(labels) == 0:
        return "all labels are equal"
    return None


def _estimate(metric: Callable[[Floats, Floats], float], x: Floats, y: Floats, draws: NDArray[np.int64]) -> Estimate:
    value = metric(x, y)
    if not math.isfinite(value):
        return Estimate(None, reason="the numbers are too close together")
    return Estimate(value, interval([metric(x[draw], y[draw]) for draw in draws]))


def resampled(count: int, seed: int, resamples: int) -> NDArray[np.int64]:
    """Rows of a bootstrap: numbers of `count` images, drawn with replacement, a resample in each row."""
    return np.random.default_rng(seed).integers(count, size=(resamples, count))


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % interval that the values of an estimate over resamples span; None where none is finite."""
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return None
    low, high = np.quantile(known, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return float(low), float(high)


def _rows_by_group(groups: Sequence[str]) -> dict[str, NDArray[np.int64]]:
    rows = defaultdict(list)
    for row, group in enumerate(groups):
        rows[group].append(row)
    return {group: np.asarray(numbers) for group, numbers in sorted(rows.items())}


def _within_groups(scores: Floats, labels: Floats, groups: Sequence[str] | None, seed: int, resamples: int) -> Estimate:
    if groups is None:
        return Estimate(None, reason="no image is in a group")
    known = srcc_by_group(scores, labels, groups)
    if not known:
        return Estimate(None, reason=f"no group has {MIN_PAIRS} images with different scores and labels")
    random = np.random.default_rng(seed)
    members = [rows for group, rows in _rows_by_group(groups).items() if group in known]
    means = []
    for _ in range(resamples):
        drawn = [random.choice(rows, len(rows)) for rows in members]
        values = [srcc(scores[rows], labels[rows]) for rows in drawn]
        finite = [value for value in values if math.isfinite(value)]
        means.append(sum(finite) / len(finite) if finite else math.nan)
    return Estimate(sum(known.values()) / len(known), interval(means))
