"""Figures fit for print, of the numbers and names they are given: scatter and radar plots, curves, distributions."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from m3agiqa.errors import DataError, UsageError
from m3agiqa.outputs import check_writable, write

#: Colours that colour-blind readers tell apart (Okabe and Ito), also in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
#: Colour of a point without a group, where other points have one.
_UNGROUPED = "#999999"
#: Groups that get a colour and marker of their own; with more, nobody could tell them apart.
MAX_GROUPS = 16
#: Inches of one panel's side, and dots of an inch.
PANEL, DPI = 3.4, 200
#: Edges of the bars of a distribution, on the MOS scale.
_BINS = [number / 5 for number in range(26)]


@dataclass(frozen=True)
class Panel:
    """Predicted scores beside human ones, as one panel of a scatter plot shows them."""

    scores: Sequence[float]
    labels: Sequence[float]
    #: Group of each image; None where no image has one.
    groups: Sequence[str] | None
    #: Predicted scores, and the human scores that a fitted curve maps them to; None for no curve.
    curve: tuple[Sequence[float], Sequence[float]] | None
    #: Correlations by the name that is shown, with their intervals.
    correlations: Mapping[str, tuple[float, tuple[float, float] | None]]


def scatter(panels: Mapping[str, Panel]) -> Figure:
    """Draw predicted against human scores, with curve and correlations: one panel for each title."""
    columns = math.ceil(math.sqrt(len(panels)))
    rows = math.ceil(len(panels) / columns)
    figure = _figure(columns * PANEL, rows * PANEL)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for unused in axes[len(panels) :]:
        unused.set_axis_off()
    groups = sorted({group for panel in panels.values() for group in panel.groups or ()})
    styles = {group: _style(number) for number, group in enumerate(groups if 1 < len(groups) <= MAX_GROUPS else ())}
    for (title, panel), where in zip(panels.items(), axes, strict=False):
        _scatter(where, title, panel, styles)
    if styles:
        keys = [
            Line2D([], [], linestyle="", markersize=4, color=colour, marker=marker, label=_plain(group))
            for group, (colour, marker) in styles.items()
        ]
        figure.legend(handles=keys, loc="outside lower center", ncols=3 * columns, fontsize=6, frameon=False)
    return figure


def _scatter(axes: Axes, title: str, panel: Panel, styles: Mapping[str, tuple[str, str]]) -> None:
    x, y = np.asarray(panel.scores), np.asarray(panel.labels)
    groups = np.asarray(panel.groups if panel.groups is not None and styles else [""] * len(x))
    for group in np.unique(groups):
        colour, marker = styles.get(group, (_UNGROUPED, "o") if styles else _style(0))
        members = groups == group
        axes.scatter(x[members], y[members], s=9, alpha=0.6, edgecolors="none", color=colour, marker=marker)
    if panel.curve is not None:
        axes.plot(*panel.curve, color="black", linewidth=1.2)
    lines = [_line(name, value, interval) for name, (value, interval) in panel.correlations.items()]
    facts = [f"n = {len(x)}, " + ", ".join(lines[:1]), ", ".join(lines[1:3]), *lines[3:]]
    axes.set_title(_plain(title), fontsize=9, pad=11 + 8 * len(facts))
    axes.text(0.5, 1.02, "\n".join(facts), fontsize=6.5, ha="center", va="bottom", transform=axes.transAxes)
    axes.set(xlabel="predicted score", ylabel="mean opinion score")
    axes.grid(alpha=0.25, linewidth=0.5)


def _style(number: int) -> tuple[str, str]:
    """Colour and marker."""
    return COLOURS[number % len(COLOURS)], MARKERS[number // len(COLOURS) % len(MARKERS)]


def _line(name: str, value: float, interval: tuple[float, float] | None) -> str:
    return f"{name} {value:.3f}" + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")


def radar(models: Mapping[str, Mapping[str, float]]) -> Figure:
    """Draw each model's numbers, by the name of their axis: a model skips an axis it has no number for; negative
    numbers are drawn at 0.

    Raises:
        DataError: fewer than three axes have a number.
    """
    axes = list(dict.fromkeys(axis for numbers in models.values() for axis in numbers))
    if len(axes) < 3:
        raise DataError("a radar plot needs at least three numbers; give more results")
    angles = [2 * math.pi * number / len(axes) for number in range(len(axes))]
    figure = _figure(1.6 * PANEL, 1.45 * PANEL)
    panel: Any = figure.add_subplot(projection="polar")
    panel.set_theta_offset(math.pi / 2)
    panel.set_theta_direction(-1)
    for number, (model, numbers) in enumerate(models.items()):
        heights = [max(0.0, numbers[axis]) if axis in numbers else math.nan for axis in axes]
        style = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}
        panel.plot(
            [*angles, angles[0]], [*heights, heights[0]], linewidth=1.4, markersize=3.5, label=_plain(model), **style
        )
        if not any(map(math.isnan, heights)):
            panel.fill([*angles, angles[0]], [*heights, heights[0]], alpha=0.08, color=style["color"])
    panel.set_xticks(angles, axes, fontsize=7)
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
    """Draw training curves over the epochs: losses on the left, correlations on the right.

    Args:
        columns: numbers by name, as in a run's metrics.csv: `epoch`, `seconds` (not drawn), losses that end in `_loss`,
            and correlations.
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


@dataclass(frozen=True)
class Curve:
    """A share by threshold, and the interval that it lies in."""

    shares: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


@dataclass(frozen=True)
class Tradeoff:
    """Shares of good and of bad images that are rejected, by threshold."""

    thresholds: Sequence[float]
    good: Curve
    bad: Curve
    #: The threshold that was chosen.
    chosen: float
    #: Whether the promise is about bad images, and the share that it names.
    promise: tuple[bool, float]


def tradeoff(panels: Mapping[str, Tradeoff]) -> Figure:
    """Draw what each threshold catches (above) and costs (below), with a column for each title."""
    figure = _figure(len(panels) * PANEL, 1.5 * PANEL)
    axes = figure.subplots(2, len(panels), squeeze=False, sharex="col")
    for column, (title, panel) in enumerate(panels.items()):
        caught, lost = axes[:, column]
        caught.set_title(_plain(title), fontsize=9)
        for where, curve, is_bad in ((caught, panel.bad, True), (lost, panel.good, False)):
            percent = [[100 * share for share in shares] for shares in (curve.shares, curve.low, curve.high)]
            colour = COLOURS[0 if is_bad else 1]
            where.plot(panel.thresholds, percent[0], color=colour, linewidth=1.4)
            where.fill_between(panel.thresholds, *percent[1:], color=colour, alpha=0.15, linewidth=0)
            where.axvline(panel.chosen, color="black", linewidth=0.8, linestyle=":")
            if panel.promise[0] is is_bad:
                where.axhline(100 * panel.promise[1], color="black", linewidth=0.8, linestyle="--")
            where.grid(alpha=0.25, linewidth=0.5)
        _frame(caught, lost, panel)
    axes[0, 0].set_ylabel("% of bad images rejected")
    axes[1, 0].set_ylabel("% of good images rejected")
    return figure


def _frame(caught: Axes, lost: Axes, panel: Tradeoff) -> None:
    """Label a column, and show of the cost the part in which a threshold may be chosen."""
    at_chosen = float(np.interp(panel.chosen, panel.thresholds, panel.good.high))
    most = max(at_chosen, 0.0 if panel.promise[0] else panel.promise[1])
    caught.set_ylim(0, 100)
    lost.set_ylim(0, min(100, 100 * 3 * max(most, 0.01)))
    lost.set_xlabel("threshold")
    caught.annotate(
        f"{panel.chosen:.2f}",
        (panel.chosen, 100),
        xytext=(3, -3),
        textcoords="offset points",
        fontsize=7,
        va="top",
    )


def distributions(panels: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """Draw how scores lie on the MOS scale: a panel for each title, an outline for each named set."""
    figure = _figure(len(panels) * PANEL, 0.85 * PANEL)
    for where, (title, sets) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for number, (name, scores) in enumerate(sets.items()):
            weights = [100 / len(scores)] * len(scores)
            colour, fill = COLOURS[number % len(COLOURS)], {"alpha": 0.15, "histtype": "stepfilled"}
            where.hist(scores, bins=_BINS, weights=weights, color=colour, **fill)
            where.hist(scores, bins=_BINS, weights=weights, color=colour, histtype="step", label=_plain(name))
        where.set_title(_plain(title), fontsize=9)
        where.set(xlabel="score", ylabel="% of images", xlim=(0, 5))
        where.grid(alpha=0.25, linewidth=0.5)
        where.legend(fontsize=6.5, frameon=False)
    return figure


def check(path: Path, *inputs: Path) -> None:
    """See that a figure can be saved.

    Raises:
        UsageError: the ending of `path` is no format that can be drawn.
        OutputError: `path` cannot be written to, or is one of `inputs`.
    """
    known = Figure().canvas.get_supported_filetypes()
    if _format(path) not in known:
        raise UsageError(f"cannot draw {path}: .{_format(path)} is none of {', '.join(sorted(known))}")
    check_writable(path, *inputs)


def save(figure: Figure, path: Path) -> None:
    """Write a figure in the format of the file's ending, such as png, pdf or svg; without an ending, png.

    Raises:
        UsageError: no such format.
        OutputError: the file cannot be written.
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
    """`text`, with every dollar sign escaped: it would begin a formula."""
    return text.replace("$", r"\$")


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
