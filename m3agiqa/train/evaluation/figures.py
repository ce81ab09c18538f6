"""Predictions as the figures of `m3agiqa.report` show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from m3agiqa.report.plots import Panel
from m3agiqa.train.evaluation.evaluate import evaluate, rated
from m3agiqa.train.evaluation.metrics import fit_logistic
from m3agiqa.train.evaluation.predictions import Prediction

#: Correlations that figures show: name in the result of `evaluate`, and in the figure.
_SHOWN = {"srcc": "SRCC", "plcc_logistic": "PLCC, logistic", "krcc": "KRCC", "srcc_within_groups": "SRCC within"}
#: Points of a curve.
_POINTS = 200


def scatter_panel(rows: Sequence[Prediction]) -> Panel:
    """The panel of one model and aspect; its curve is the fitted logistic."""
    scores, labels, groups = rated(rows)
    result = evaluate(rows)
    curve = None
    if result["srcc"] is not None:
        x = np.linspace(min(scores), max(scores), _POINTS)
        curve = (x.tolist(), fit_logistic(np.asarray(scores), np.asarray(labels))(x).tolist())
    known = {name: (result[key], result[f"{key}_ci95"]) for key, name in _SHOWN.items() if result[key] is not None}
    return Panel(scores, labels, groups, curve, known)


def radar_numbers(rows_by_aspect: Mapping[str, Sequence[Prediction]]) -> dict[str, float]:
    """One model's correlations, by the name of their axis."""
    numbers: dict[str, float] = {}
    for aspect, rows in rows_by_aspect.items():
        result = evaluate(rows, resamples=0)
        numbers |= {f"{name}\n{aspect}": result[key] for key, name in _SHOWN.items() if result[key] is not None}
    return numbers
