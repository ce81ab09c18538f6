"""Scatter and radar plots of predictions, fit for print."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from m3agiqa.errors import DataError, UsageError
from m3agiqa.outputs import check_writable, write
from m3agiqa.train.evaluation.evaluate import evaluate, rated
from m3agiqa.train.evaluation.metrics import fit_logistic
from m3agiqa.train.evaluation.predictions import Prediction

#: Colours that stay apart for colour-blind readers (Okabe and Ito), and in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
#: Colour of points without a group beside others that have one.
_UNGROUPED = "#999999"
#: Groups beyond which colours would repeat within a marker too often to tell apart.
MAX_GROUPS = 16
#: Inches of one panel, dots an inch.
PANEL, DPI = 3.4, 200

#: Axes of a radar plot for each aspect: name in `evaluate`'s result, and on the plot.
RADAR = {"srcc": "SRCC", "plcc_logistic": "PLCC, logistic", "krcc": "KRCC", "srcc_within_groups": "SRCC within"}


def scatter(results: Mapping[str, Sequence[Prediction]]) -> Figure:
    """One panel a result: predicted against human scores with the fitted logistic and the correlations."""
    columns = math.ceil(math.sqrt(len(results)))
    rows = math.ceil(len(results) / columns)
    figure = _figure(columns * PANEL, rows * PANEL)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for panel in panels[len(results) :]:
        panel.set_axis_off()
    groups = sorted({row.group for rows in results.values() for row in rows if row.group is not None})
    colours = {group: _style(number) for number, group in enumerate(groups if 1 < len(groups) <= MAX_GROUPS else ())}
    for (title, predictions), panel in zip(results.items(), panels, strict=False):
        _scatter(panel, title, predictions, colours)
    if colours:
        keys = [
            Line2D([], [], linestyle="", markersize=4, color=c, marker=m, label=_plain(g))
            for g, (c, m) in colours.items()
        ]
        figure.legend(handles=keys, loc="outside lower center", ncols=3 * columns, fontsize=6, frameon=False)
    return figure


def _scatter(panel: Axes, title: str, predictions: Sequence[Prediction], styles: Mapping[str, tuple[str, str]]) -> None:
    scores, labels, groups = rated(predictions)
    x, y = np.asarray(scores), np.asarray(labels)
    of_group = np.asarray(groups if groups is not None and styles else [""] * len(x))
    for group in np.unique(of_group):
        colour, marker = styles.get(group, (_UNGROUPED, "o") if styles else _style(0))
        of = of_group == group
        panel.scatter(x[of], y[of], s=9, alpha=0.6, edgecolors="none", color=colour, marker=marker)
    result = evaluate(predictions)
    if result["srcc"] is not None:
        curve = np.linspace(x.min(), x.max(), 200)
        panel.plot(curve, fit_logistic(x, y)(curve), color="black", linewidth=1.2)
    lines = [_line(name, result[key], result[f"{key}_ci95"]) for key, name in RADAR.items() if result[key] is not None]
    facts = [f"n = {result['n']}, " + ", ".join(lines[:1]), ", ".join(lines[1:3]), *lines[3:]]
    panel.set_title(_plain(title), fontsize=9, pad=11 + 8 * len(facts))
    panel.text(0.5, 1.02, "\n".join(facts), fontsize=6.5, ha="center", va="bottom", transform=panel.transAxes)
    panel.set(xlabel="predicted score", ylabel="mean opinion score")
    panel.grid(alpha=0.25, linewidth=0.5)


def _style(number: int) -> tuple[str, str]:
    """Colour and marker."""
    return COLOURS[number % len(COLOURS)], MARKERS[number // len(COLOURS) % len(MARKERS)]


def _line(name: str, value: float, interval: tuple[float, float] | None) -> str:
    return f"{name} {value:.3f}" + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")


def radar(results: Mapping[str, Mapping[str, Sequence[Prediction]]]) -> Figure:
    """Models (outer keys) over aspects and metrics; a model is drawn where it has a number, negative ones at 0.

    Raises:
        DataError: fewer than three axes have a number.
    """
    values: dict[str, dict[tuple[str, str], float]] = {
        model: {
            (aspect, name): result[key]
            for aspect, rows in aspects.items()
            for result in [evaluate(rows, resamples=0)]
            for key, name in RADAR.items()
            if result[key] is not None
        }
        for model, aspects in results.items()
    }
    axes = list(dict.fromkeys(axis for of in values.values() for axis in of))
    if len(axes) < 3:
        raise DataError("a radar plot needs at least three numbers; give more results")
    angles = [2 * math.pi * number / len(axes) for number in range(len(axes))]
    figure = _figure(1.6 * PANEL, 1.45 * PANEL)
    panel: Any = figure.add_subplot(projection="polar")
    panel.set_theta_offset(math.pi / 2)
    panel.set_theta_direction(-1)
    for number, (model, of) in enumerate(values.items()):
        heights = [max(0.0, of.get(axis, math.nan)) if axis in of else math.nan for axis in axes]
        style = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}
        panel.plot(
            [*angles, angles[0]], [*heights, heights[0]], linewidth=1.4, markersize=3.5, label=_plain(model), **style
        )
        if not any(map(math.isnan, heights)):
            panel.fill([*angles, angles[0]], [*heights, heights[0]], alpha=0.08, color=style["color"])
    panel.set_xticks(angles, [f"{name}\n{aspect}" for aspect, name in axes], fontsize=7)
    for angle, label in zip(angles, panel.get_xticklabels(), strict=True):
        label.set_horizontalalignment(
            "center" if abs(math.sin(angle)) < 0.1 else "left" if angle < math.pi else "right"
        )
    panel.set_ylim(0, 1)
    panel.set_yticks([0.2, 0.4, 0.6, 0.8, 1.0], ["0.2", "0.4", "0.6", "0.8", "1"], fontsize=6, color="#555555")
    panel.tick_params(axis="x", pad=4)
    panel.grid(alpha=0.4, linewidth=0.5)
    panel.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.02, 1.08), frameon=False)
    return figure


def curves(columns: Mapping[str, Sequence[float | None]], best: int | None = None) -> Figure:
    """Training curves: `epoch` against losses on the left and correlations on the right.

    Args:
        columns: as in a run's metrics.csv; `epoch`, `*_loss`, and the rest correlations.
        best: epoch of the best checkpoint.
    """
    figure = _figure(2 * PANEL, 0.85 * PANEL)
    losses, correlations = figure.subplots(1, 2)
    names = [name for name in columns if name not in ("epoch", "seconds")]
    for number, name in enumerate(names):
        panel = losses if name.endswith("_loss") else correlations
        heights = [math.nan if value is None else value for value in columns[name]]
        panel.plot(columns["epoch"], heights, linewidth=1.3, label=name, color=COLOURS[number % len(COLOURS)])
    for panel, label in ((losses, "loss"), (correlations, "correlation on validation")):
        if best is not None:
            panel.axvline(best, color="black", linewidth=0.8, linestyle=":", label="best")
        panel.set(xlabel="epoch", ylabel=label)
        panel.xaxis.get_major_locator().set_params(integer=True)
        panel.grid(alpha=0.25, linewidth=0.5)
        panel.legend(fontsize=6.5, frameon=False)
    return figure


def check(path: Path, *inputs: Path) -> None:
    """Raises: UsageError: `path` names no format that can be drawn, or cannot be written to, or is in `inputs`."""
    known = Figure().canvas.get_supported_filetypes()
    if _format(path) not in known:
        raise UsageError(f"cannot draw {path}: .{_format(path)} is none of {', '.join(sorted(known))}")
    check_writable(path, *inputs)


def save(figure: Figure, path: Path) -> None:
    """Write as what the file's ending says: png, which is also what no ending means, pdf, svg.

    Raises:
        UsageError: no such format, or the place cannot be written to.
    """
    file = io.BytesIO()
    try:
        figure.savefig(file, dpi=DPI, format=_format(path))
    except ValueError as error:
        raise UsageError(f"cannot draw {path}: {error}") from error
    write(path, file.getvalue())


def _format(path: Path) -> str:
    return path.suffix[1:].lower() or "png"


def _plain(text: str) -> str:
    """Text in which a dollar sign begins no formula."""
    return text.replace("$", r"\$")


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
