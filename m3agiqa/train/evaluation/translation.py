"""A policy's thresholds as a new model's scores need them, from images that the old and the new model scored.

Isotonic regression (pool adjacent violators) gives, for each score of the new model, what the old one says on average
of such images. A threshold moves to where that crosses it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize

from m3agiqa.contract import Aspect, Decision
from m3agiqa.errors import DataError
from m3agiqa.policy import Policy, Thresholds
from m3agiqa.report.judged import Judged
from m3agiqa.train.evaluation.comparison import Pair
from m3agiqa.train.evaluation.metrics import RESAMPLES, Floats, interval, resampled

#: Images of both models below which no threshold is moved.
MIN_IMAGES = 30


@dataclass(frozen=True)
class Moved:
    """A threshold and where it went."""

    aspect: Aspect
    field: str
    old: float
    new: float
    #: Where it might have gone with other images (bootstrap, 95 %).
    interval: tuple[float, float]
    #: Whether the new model's scores all stand for more than the old threshold: nothing is below the new one.
    is_out_of_reach: bool


def to_old_scale(new: Floats, old: Floats) -> tuple[Floats, Floats]:
    """Scores of the new model, rising, and what each means on the old one's scale, never falling."""
    at, where, counts = np.unique(new, return_inverse=True, return_counts=True)
    means = np.bincount(where, weights=old) / counts
    return at, np.asarray(optimize.isotonic_regression(means, weights=counts).x, dtype=np.float64)


def moved_threshold(new: Floats, old: Floats, threshold: float) -> float:
    """Halfway between the scores of the new model that mean less than `threshold` and the others; 0 if none means less,
    5 if all do.
    """
    at, means = to_old_scale(new, old)
    index = int(np.searchsorted(means, threshold, side="left"))
    if index == 0:
        return 0.0
    return float(at[index - 1] + at[index]) / 2 if index < len(at) else 5.0


def translate(
    policy: Policy, pairs: Sequence[Pair], *, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[Policy, list[Moved]]:
    """`policy` for the new model, and how each threshold moved. A threshold of 0 stays.

    Args:
        policy: decides about scores of the old model.
        pairs: the same images as the old model judged them, and the new one.

    Raises:
        DataError: an aspect of the policy has too few images that both models scored, or none that the old one put
            above a threshold.
    """
    moves: list[Moved] = []
    aspects = {}
    for aspect, thresholds in policy.aspects.items():
        news = {
            field: _moved(aspect, field, value, pairs, seed, resamples)
            for field, value in (("reject_below", thresholds.reject_below), ("review_below", thresholds.review_below))
            if value > 0
        }
        moves += news.values()
        aspects[aspect] = Thresholds(**{field: moved.new for field, moved in news.items()})
    return policy.model_copy(update={"aspects": aspects}), moves


def decisions(policy: Policy, images: Sequence[Judged]) -> list[Decision]:
    """What `policy` decides by the scores that each image has."""
    return [policy.decide(image.scores, tuple(image.scores))[0] for image in images]


def _moved(aspect: Aspect, field: str, threshold: float, pairs: Sequence[Pair], seed: int, resamples: int) -> Moved:
    known = [
        (a.scores[aspect].score, b.scores[aspect].score) for a, b in pairs if aspect in a.scores and aspect in b.scores
    ]
    if len(known) < MIN_IMAGES:
        raise DataError(
            f"{len(known)} images have a score of {aspect} by both models; at least {MIN_IMAGES} are needed"
        )
    old, new = (np.asarray(values, dtype=np.float64) for values in zip(*known, strict=True))
    means = to_old_scale(new, old)[1]
    if means[-1] < threshold:
        raise DataError(
            f"{aspect}: no score of the new model stands for {field} {threshold:g} of the old one, or more: the images "
            f"lie too low to move this threshold"
        )
    moves = [moved_threshold(new[draw], old[draw], threshold) for draw in resampled(len(new), seed, resamples)]
    spread = interval(moves)
    assert spread is not None
    place = round(moved_threshold(new, old, threshold), 4)
    return Moved(aspect, field, threshold, place, spread, is_out_of_reach=bool(means[0] >= threshold))
