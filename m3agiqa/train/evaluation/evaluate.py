"""One aspect's predictions held against human scores, and its descriptions against texts they may be copied from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import numpy as np

from m3agiqa.train.evaluation.metrics import RESAMPLES, as_json, correlations, srcc_by_group
from m3agiqa.train.evaluation.predictions import Prediction

#: Group of those that are in none, where others are in one.
_NO_GROUP = "(none)"
#: Words of a sequence that hardly comes about twice by chance.
_GRAM = 8


def rated(rows: Sequence[Prediction]) -> tuple[list[float], list[float], list[str] | None]:
    """Scores, labels and groups (None where there are none) of the rows that have both a score and a label."""
    known = [row for row in rows if row.score is not None and row.label is not None]
    scores = [row.score for row in known if row.score is not None]
    labels = [row.label for row in known if row.label is not None]
    groups = [row.group or _NO_GROUP for row in known]
    return scores, labels, groups if any(row.group for row in known) else None


def evaluate(rows: Sequence[Prediction], *, seed: int = 0, resamples: int = RESAMPLES) -> dict[str, Any]:
    """What `m3agiqa evaluate --json` prints of the predictions themselves.

    `n` images have score and label; `failed` were not scored; `unlabelled` were, but the table has no label. With 0
    resamples intervals are null.
    """
    scores, labels, groups = rated(rows)
    by_group = {} if groups is None else srcc_by_group(np.asarray(scores), np.asarray(labels), groups)
    return {
        "n": len(scores),
        "failed": sum(row.error is not None for row in rows),
        "unlabelled": sum(row.error is None and row.label is None for row in rows),
        **as_json(correlations(scores, labels, groups, seed=seed, resamples=resamples)),
        "groups": {
            group: {"n": count, "srcc": by_group.get(group)} for group, count in sorted(Counter(groups or ()).items())
        },
    }


def novelty(rows: Sequence[Prediction], texts: Iterable[str]) -> dict[str, Any]:
    """How many descriptions are distinct, and the share of their 8-grams (words, lower case) that stand in `texts`.

    The share is null where no description has eight words.
    """
    descriptions = [row.description for row in rows if row.description is not None]
    known = set(chain.from_iterable(map(_grams, texts)))
    grams = list(chain.from_iterable(map(_grams, descriptions)))
    return {
        "descriptions": len(descriptions),
        "descriptions_distinct": len(set(descriptions)),
        "grams_in_texts": sum(gram in known for gram in grams) / len(grams) if grams else None,
    }


def _grams(text: str) -> Iterable[tuple[str, ...]]:
    words = text.lower().split()
    return zip(*(words[start:] for start in range(_GRAM)), strict=False)
