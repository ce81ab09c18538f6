"""Which images a person should label next: a probability sample, so that the labels speak for every image.

Each image is chosen independently of the others, by two coins: one of the same rate for all, and one whose rate is the
higher the nearer a score lies to a threshold. So every image has a known chance above 0, and labels weighted by one
over their chance estimate what labelling everything would have given (Horvitz and Thompson, 1952).

The chosen are then shuffled. Whoever stops labelling after some of them has a random part of the sample: its chances
are all smaller by the same factor, which cancels out of every rate.

Coins and order come from a hash of seed and id (permanent random numbers: Ohlsson, 1995). The same images with the same
policy and seed give the same sample on any machine, and nothing that a person sees or labels changes it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from m3agiqa.contract import Aspect
from m3agiqa.policy import Policy
from m3agiqa.report.judged import Judged

#: Share of the wanted labels that the coin which is the same for all images chooses.
RANDOM_SHARE = 0.6
#: Distance to a threshold, on the MOS scale, from which on an image is not near it.
REACH = 0.5
RANDOM, NEAR = "random", "near:"


@dataclass(frozen=True)
class Proposal:
    """An image of the sample."""

    #: `random`, or `near:ASPECT` where only its distance to a threshold of that aspect chose it.
    chosen: str
    #: Probability that the sample has this image, in (0, 1].
    chance: float
    #: Its place in the order of labelling, from 0.
    turn: int


def propose(images: Sequence[Judged], policy: Policy, *, labels: int, seed: int) -> dict[str, Proposal]:
    """Draw about `labels` of `images` to label, by their ids.

    An image without a score is never proposed. Of several with the same id, the first counts.
    """
    unique = {image.id: image for image in reversed(images) if image.scores}
    if not unique:
        return {}
    even = min(1.0, RANDOM_SHARE * labels / len(unique))
    nearness = {name: _nearness(image, policy) for name, image in unique.items()}
    # More than the rest of the labels, as some of these are drawn by the other coin as well.
    wanted = (1 - RANDOM_SHARE) * labels / (1 - even) if even < 1 else 0.0
    near = _rates({name: weight for name, (weight, _) in nearness.items()}, wanted)
    drawn: dict[str, tuple[str, float]] = {}
    for name, rate in near.items():
        chance = even + rate - even * rate
        if _number(seed, "random", name) < even:
            drawn[name] = RANDOM, chance
        elif _number(seed, "near", name) < rate:
            drawn[name] = f"{NEAR}{nearness[name][1]}", chance
    order = sorted(drawn, key=lambda name: _number(seed, "order", name))
    return {name: Proposal(*drawn[name], turn) for turn, name in enumerate(order)}


def _nearness(image: Judged, policy: Policy) -> tuple[float, Aspect | None]:
    """How near a score is to a threshold, 0 (REACH away) to 1, and the aspect where it is nearest."""
    found = [
        (1 - abs(scored.score - threshold) / REACH, aspect)
        for aspect, scored in image.scores.items()
        for threshold in _thresholds(policy, aspect)
    ]
    weight, nearest = max(found, default=(0.0, None), key=lambda each: each[0])
    return max(0.0, weight), nearest


def _thresholds(policy: Policy, aspect: Aspect) -> list[float]:
    """The aspect's thresholds that a score can miss: none lies below 0."""
    found = policy.aspects.get(aspect)
    return [] if found is None else [value for value in (found.reject_below, found.review_below) if value > 0]


def _rates(weights: Mapping[str, float], wanted: float) -> dict[str, float]:
    """Probabilities in proportion to the weights, at most 1 each, that add up to `wanted` if enough weights are above
    0.
    """
    # fsum: the same chances to the last bit, in whatever order the images come.
    left, rest = wanted, math.fsum(weights.values())
    for weight in sorted(weights.values(), reverse=True):
        if left <= 0 or weight * left < rest:
            break
        # This one is certain; the others share what is left.
        left, rest = left - 1, rest - weight
    factor = left / rest if rest > 0 else float("inf")
    return {name: min(1.0, factor * weight) if weight > 0 else 0.0 for name, weight in weights.items()}


def _number(seed: int, use: str, name: str) -> float:
    """A number in [0, 1), as if drawn at random for this use of this image."""
    digest = hashlib.sha256(f"{seed}/{use}/{name}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
