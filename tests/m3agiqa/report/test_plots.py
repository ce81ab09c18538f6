from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from m3agiqa.errors import DataError, UsageError
from m3agiqa.report import plots


def panel(count: int, *, curve: bool = True) -> plots.Panel:
    return plots.Panel(
        scores=[5 * index / count for index in range(count)],
        labels=[4 * index / count for index in range(count)],
        groups=[f"g{index % 3}" for index in range(count)],
        curve=([0.0, 5.0], [0.0, 4.0]) if curve else None,
        correlations={"SRCC": (0.9, (0.8, 0.95)), "KRCC": (0.7, None)} if curve else {},
    )


def texts(figure: plots.Figure) -> str:
    return "\n".join(str(item.get_text()) for item in figure.findobj(lambda artist: hasattr(artist, "get_text")))


def test_a_scatter_plot_has_a_panel_for_each_title_with_its_numbers(tmp_path: Path) -> None:
    figure = plots.scatter({"good": panel(40), "$bad": panel(9), "untold": panel(2, curve=False)})

    drawn = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_title() for axes in drawn] == ["good", r"\$bad", "untold"]
    assert sum(len(collection.get_offsets()) for collection in drawn[0].collections) == 40
    assert [len(axes.lines) for axes in drawn] == [1, 1, 0]
    assert "n = 40, SRCC 0.900 [0.800, 0.950]\nKRCC 0.700" in texts(figure)
    assert {"g0", "g1", "g2"} <= set(texts(figure).splitlines())
    plots.save(figure, tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as image:
        assert image.width > 1000
        colours = image.convert("RGB").resize((100, 100)).getcolors(10_000)
    assert colours is not None
    assert len(colours) > 20


def test_a_radar_plot_draws_models_over_their_axes() -> None:
    figure = plots.radar({"a": {"x": 0.9, "y": 0.8, "z": -0.5, "w": 0.1}, "b": {"y": 0.2, "z": 0.3}})

    [axes] = figure.axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["x", "y", "z", "w"]
    assert [line.get_label() for line in axes.lines] == ["a", "b"]
    a, b = (np.asarray(line.get_ydata(), dtype=float) for line in axes.lines)
    assert a.tolist() == [0.9, 0.8, 0, 0.1, 0.9]
    assert np.isnan(b[[0, 3, 4]]).all()
    assert b[1:3].tolist() == [0.2, 0.3]


def test_a_radar_plot_of_too_little_is_refused() -> None:
    with pytest.raises(DataError, match="at least three"):
        plots.radar({"a": {"x": 1, "y": 1}})


def test_a_format_that_cannot_be_drawn_is_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.docx is none of .*pdf"):
        plots.check(tmp_path / "x.docx")


def test_curves_keep_losses_and_correlations_apart() -> None:
    columns = {
        "epoch": [0, 1],
        "train_loss": [2.0, 1.0],
        "val_loss": [2.0, 1.5],
        "srcc": [None, 0.5],
        "seconds": [1.0, 1.0],
    }

    losses, correlations = plots.curves(columns, best=1).axes

    assert [line.get_label() for line in losses.lines] == ["train_loss", "val_loss", "best"]
    assert [line.get_label() for line in correlations.lines] == ["srcc", "best"]
