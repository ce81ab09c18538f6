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


def test_a_trade_off_shows_what_is_caught_above_what_it_costs(tmp_path: Path) -> None:
    rising = plots.Curve([0.0, 0.5, 1.0], [0.0, 0.4, 0.9], [0.1, 0.6, 1.0])
    cost = plots.Curve([0.0, 0.01, 0.5], [0.0, 0.0, 0.4], [0.01, 0.03, 0.6])
    panel = plots.Tradeoff([0.0, 1.0, 2.0], good=cost, bad=rising, chosen=1.0, promise=(False, 0.02))

    figure = plots.tradeoff({"quality": panel, "both": panel})

    caught, _, lost, _ = figure.axes
    assert caught.get_title() == "quality"
    assert np.asarray(caught.lines[0].get_ydata()).tolist() == [0, 50, 100]
    assert np.asarray(lost.lines[0].get_ydata()).tolist() == [0, 1, 50]
    assert "1.00" in texts(figure).splitlines()
    # the promise is drawn where it was made, and the cost is shown near it
    assert (len(caught.lines), len(lost.lines)) == (2, 3)
    assert lost.get_ylim() == (0, pytest.approx(9))
    plots.save(figure, tmp_path / "t.png")


def test_distributions_have_a_panel_for_each_aspect_and_an_outline_for_each_set() -> None:
    figure = plots.distributions({"quality": {"$a": [1.0, 2.0], "b": [3.0]}, "authenticity": {"b": [1.0]}})
    assert [axes.get_title() for axes in figure.axes] == ["quality", "authenticity"]
    legend = figure.axes[0].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [r"\$a", "b"]
