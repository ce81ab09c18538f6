"""Bounds on a share from a sample of any size: exact ones, and ones for samples of known, unequal chances.

Every bound holds at any number of images, without an approximation by a normal distribution:

- `at_most` and `at_least` are Clopper and Pearson's (1934), for a sample in which each image had the same chance.
- `weighted_at_most` and `weighted_at_least` bet against a share (Waudby-Smith and Ramdas, "Estimating means of bounded
  random variables by betting", JRSS B 2024), with inverse probability weights (Horvitz and Thompson, 1952). They bet a
  mixture of fixed stakes, as universal portfolios do (Orabona and Jun, "Tight concentrations and confidence sequences
  from the regret of universal portfolio", 2024): so the order of the images has no influence.
"""

from __future__ import annotations

import math
from bisect import bisect_left

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special, stats

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

#: Stakes that are mixed, as shares of what can be staked without ruin; dense near 1, which is best for a rare event.
_STAKES = 1 - (1 - np.arange(1, 25) / 24) ** 2
#: Odds against 1 beyond which a share counts as 1.
_CERTAIN = 1e9
#: Images beyond which nobody is told to label more.
_MOST = 10_000_000
#: Logarithm of odds to which a bound is computed.
_PRECISION = 1e-4


def at_most(hits: ArrayLike, count: ArrayLike, error: float) -> Floats:
    """The share that `hits` of `count` images leave possible, at most; wrong with a probability of `error` at most.

    It is 1 where there are no images. Arrays are taken element by element.
    """
    k, n = np.asarray(hits, dtype=np.float64), np.asarray(count, dtype=np.float64)
    bound = stats.beta.ppf(1 - error, k + 1, np.maximum(n - k, 1e-300))
    return np.where(k >= n, 1.0, bound)


def at_least(hits: ArrayLike, count: ArrayLike, error: float) -> Floats:
    """The share that `hits` of `count` images leave possible, at least; as `at_most`."""
    k, n = np.asarray(hits, dtype=np.float64), np.asarray(count, dtype=np.float64)
    return 1 - at_most(n - k, n, error)


def is_shown(hits: ArrayLike, count: int, allowed: float, error: float, upcoming: int | None = None) -> Bools:
    """Whether `hits` of `count` images show that hits are rare enough; wrong with a probability of `error` at most.

    Args:
        allowed: the share of hits that is rare enough.
        upcoming: None shows it of all images that the source will ever give. A number shows it of the share among so
            many images that come next, which varies by itself: one counts how often, in a random order of both samples,
            too many of theirs come before one more of ours (as the coverage of conformal prediction is distributed:
            Marques F., "Universal distribution of the empirical coverage in split conformal prediction", 2025).
    """
    if upcoming is None:
        return np.asarray(at_most(hits, count, error) <= allowed)
    k = np.asarray(hits)
    too_many = math.floor(allowed * upcoming + 1e-9) + 1
    if too_many > upcoming:
        return np.ones(k.shape, dtype=np.bool_)
    return np.asarray((k < count) & (stats.hypergeom.cdf(k, count + upcoming, count, k + too_many) <= error))


def count_needed(allowed: float, error: float, upcoming: int | None = None) -> int | None:
    """Images of which `is_shown` needs none to be a hit; None if no number of images is enough."""
    most = 1
    while not is_shown(0, most, allowed, error, upcoming):
        most *= 2
        if most > _MOST:
            return None
    return bisect_left(range(most), True, key=lambda count: bool(is_shown(0, count, allowed, error, upcoming)))


def against(share: float, is_hit: Bools, weights: Floats, *, times: float = 1.0) -> float:
    """How strongly a weighted sample speaks against a share of hits of `share` or more: the logarithm of an e-value.

    If the share is in truth `share` or more, the e-value exceeds 1/error with a probability of `error` at most
    (Markov's inequality), so that the share may then be ruled out.

    Args:
        weights: one over each image's chance, up to a factor that is the same for all. The largest one must be the
            largest that the sampling rule gives to any image.
        times: how often to count each image, to tell what a larger sample of the same kind would say.
    """
    odds = share / (1 - share) if share < 1 else math.inf
    if odds > _CERTAIN:
        return math.inf
    if not len(weights):
        return 0.0
    lost, won = _bets(weights, odds)
    total = times * np.where(is_hit, lost, won).sum(axis=1)
    return float(special.logsumexp(total) - math.log(len(_STAKES)))


def against_each(share: float, weights: Floats) -> Floats:
    """What `against` says if the first 0, 1, 2, ... of the images are hits, and no other."""
    if not len(weights):
        return np.zeros(1)
    lost, won = _bets(weights, share / (1 - share))
    change = np.concatenate([np.zeros((len(_STAKES), 1)), np.cumsum(lost - won, axis=1)], axis=1)
    total: Floats = special.logsumexp(won.sum(axis=1, keepdims=True) + change, axis=0)
    return total - math.log(len(_STAKES))


def _bets(weights: Floats, odds: float) -> tuple[Floats, Floats]:
    """Logarithms of what each stake becomes by each image that is a hit, and by each that is none."""
    staked = np.outer(_STAKES, weights / weights.max())
    # Without the guard the largest stake on the heaviest image, once lost, would be the logarithm of 0.
    return np.log1p(-np.minimum(staked, 1 - 1e-12)), np.log1p(staked * odds)


def weighted_at_most(is_hit: Bools, weights: Floats, error: float, *, times: float = 1.0) -> float:
    """The share of hits that a sample of unequal chances leaves possible, at most; arguments as in `against`."""

    def excess(log_odds: float) -> float:
        return against(float(special.expit(log_odds)), is_hit, weights, times=times) + math.log(error)

    lowest, highest = -math.log(_CERTAIN), math.log(_CERTAIN) - 1
    if excess(highest) <= 0:
        return 1.0
    if excess(lowest) > 0:
        return float(special.expit(lowest))
    # The root is known to within _PRECISION: its far side is taken.
    return float(special.expit(optimize.brentq(excess, lowest, highest, xtol=_PRECISION) + _PRECISION))


def weighted_at_least(is_hit: Bools, weights: Floats, error: float, *, times: float = 1.0) -> float:
    """The share of hits that a sample of unequal chances leaves possible, at least; as `weighted_at_most`."""
    return 1 - weighted_at_most(~is_hit, weights, error, times=times)
