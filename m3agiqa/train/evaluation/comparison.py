"""Two sets of judged images held against each other: two models on the same images, or one stream at two times."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from m3agiqa.contract import Aspect, Decision
from m3agiqa.report import bounds
from m3agiqa.report.judged import Judged
from m3agiqa.train.evaluation.metrics import COVERAGE, MIN_PAIRS, RESAMPLES, Floats, interval, resampled, srcc

#: Quantiles of scores that tell how they lie.
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)

Pair = tuple[Judged, Judged]


@dataclass(frozen=True)
class Paired:
    """Images that stand in both sets, as each has them."""

    pairs: Sequence[Pair]
    #: `id` or `image_sha256`; None where the sets share no image.
    matched_by: str | None


def pair(first: Sequence[Judged], second: Sequence[Judged]) -> Paired:
    """The images that both sets have: those of the same id or, if they share no id, of the same bytes.

    A key that a set has twice means no image.
    """
    for field in ("id", "image_sha256"):
        mine, theirs = _once(first, field), _once(second, field)
        if shared := [key for key in mine if key in theirs]:
            return Paired([(mine[key], theirs[key]) for key in shared], field)
    return Paired([], None)


def compare(
    first: Sequence[Judged], second: Sequence[Judged], *, seed: int = 0, resamples: int = RESAMPLES
) -> dict[str, Any]:
    """What `m3agiqa compare --json` prints: both sets, each aspect's scores, and what differs on images that both have.

    Intervals cover 95 %: exact ones for shares (Clopper and Pearson), seeded bootstraps for the others.
    """
    paired = pair(first, second)
    aspects = [aspect for aspect in Aspect if any(aspect in image.scores for image in (*first, *second))]
    return {
        "a": _summary(first),
        "b": _summary(second),
        "shared": len(paired.pairs),
        "matched_by": paired.matched_by,
        "aspects": {
            aspect: {
                **_distributions(scores(first, aspect), scores(second, aspect), seed, resamples),
                "shared": _agreement(*_both(paired.pairs, aspect), seed, resamples),
            }
            for aspect in aspects
        },
        "decisions_that_differ": _changes(paired.pairs),
    }


def scores(images: Iterable[Judged], aspect: Aspect) -> Floats:
    """The scores of the images that have one."""
    return np.asarray([image.scores[aspect].score for image in images if aspect in image.scores], dtype=np.float64)


def share(hits: int, count: int) -> dict[str, Any]:
    """A share with its exact interval; null where there is nothing to count."""
    error = (1 - COVERAGE) / 2
    low, high = float(bounds.at_least(hits, count, error)), float(bounds.at_most(hits, count, error))
    return {"n": hits, "share": hits / count if count else None, "share_ci95": [low, high] if count else None}


def _once(images: Sequence[Judged], field: str) -> dict[str, Judged]:
    counts = Counter(getattr(image, field) for image in images)
    return {key: image for image in images if (key := getattr(image, field)) and counts[key] == 1}


def _summary(images: Sequence[Judged]) -> dict[str, Any]:
    decisions = Counter(image.decision for image in images)
    return {
        "images": len(images),
        "failed": sum(image.failure is not None for image in images),
        "models": dict(Counter(image.model for image in images).most_common()),
        "policies": dict(Counter(image.policy for image in images).most_common()),
        "decisions": {decision: share(decisions[decision], len(images)) for decision in Decision},
    }


def _distributions(a: Floats, b: Floats, seed: int, resamples: int) -> dict[str, Any]:
    """How scores lie in both sets, whichever images they are of."""
    result: dict[str, Any] = {"a": _lie(a), "b": _lie(b), "mean_shift": None, "mean_shift_ci95": None, "ks": None}
    if len(a) < MIN_PAIRS or len(b) < MIN_PAIRS:
        return result
    first, second = resampled(len(a), seed, resamples), resampled(len(b), seed + 1, resamples)
    shifts = (b[second].mean(axis=1) - a[first].mean(axis=1)).tolist()
    known = stats.ks_2samp(a, b, method="asymp")
    return result | {
        "mean_shift": float(b.mean() - a.mean()),
        "mean_shift_ci95": interval(shifts),
        "ks": float(known.statistic),
        "ks_p": float(known.pvalue),
    }


def _lie(values: Floats) -> dict[str, Any]:
    if not len(values):
        return {"n": 0, "mean": None, "quantiles": None}
    quantiles = np.quantile(values, QUANTILES).tolist()
    return {
        "n": len(values),
        "mean": float(values.mean()),
        "quantiles": dict(zip(map(str, QUANTILES), quantiles, strict=True)),
    }


def _both(pairs: Sequence[Pair], aspect: Aspect) -> tuple[Floats, Floats]:
    known = [each for each in pairs if aspect in each[0].scores and aspect in each[1].scores]
    return scores((a for a, _ in known), aspect), scores((b for _, b in known), aspect)


def _agreement(a: Floats, b: Floats, seed: int, resamples: int) -> dict[str, Any]:
    """How far the scores of shared images agree."""
    metrics: Mapping[str, Callable[[Floats, Floats], float]] = {
        "mean_shift": lambda x, y: float((y - x).mean()),
        "mean_distance": lambda x, y: float(np.abs(y - x).mean()),
        "srcc": srcc,
    }
    result: dict[str, Any] = {"n": len(a)}
    if len(a) < MIN_PAIRS:
        return result | dict.fromkeys([*metrics, *(f"{name}_ci95" for name in metrics)])
    draws = resampled(len(a), seed, resamples)
    for name, metric in metrics.items():
        value = metric(a, b)
        result[name] = value if np.isfinite(value) else None
        result[f"{name}_ci95"] = interval([metric(a[draw], b[draw]) for draw in draws])
    return result


def _changes(pairs: Sequence[Pair]) -> dict[str, Any]:
    changes = Counter((a.decision, b.decision) for a, b in pairs if a.decision != b.decision)
    return {
        **share(changes.total(), len(pairs)),
        "by_change": {f"{before} to {after}": count for (before, after), count in changes.most_common()},
    }
