"""Predictions of one aspect held against human scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from m3agiqa.train.evaluation.metrics import RESAMPLES, as_json, correlations, srcc_by_group
from m3agiqa.train.evaluation.predictions import Prediction

#: Group of images that are in no group, where others are in one.
_NO_GROUP = "(none)"


def rated(rows: Sequence[Prediction]) -> tuple[list[float], list[float], list[str] | None]:
    """Scores, labels and groups of the rows that have a score and a label; groups are None where no row has one."""
    known = [row for row in rows if row.score is not None and row.label is not None]
    scores = [row.score for row in known if row.score is not None]
    labels = [row.label for row in known if row.label is not None]
    groups = [row.group or _NO_GROUP for row in known]
    return scores, labels, groups if any(row.group for row in known) else None


def evaluate(rows: Sequence[Prediction], *, seed: int = 0, resamples: int = RESAMPLES) -> dict[str, Any]:
    """The counts and correlations that `m3agiqa evaluate --json` prints.

    `n` images have a score and a label, `failed` images have no score, `unlabelled` ones a score but no label. Without
    resamples, intervals are null.
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
