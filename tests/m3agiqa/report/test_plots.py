from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from m3agiqa.cli import main
from m3agiqa.contract import Aspect, Rating
from m3agiqa.errors import DataError
from m3agiqa.report import plots
from m3agiqa.train.evaluation.predictions import Prediction
from tests.m3agiqa.train.conftest import MakeData, make_data

__all__ = ["make_data"]


def rows(noise: float, aspect: Aspect = Aspect.QUALITY, count: int = 40) -> list[Prediction]:
    random = np.random.default_rng(0)
    labels = random.uniform(0, 5, count)
    scores = np.clip(labels + noise * random.normal(size=count), 0, 5)
    return [
        Prediction(
            name=f"{index}.png",
            prompt="",
            aspect=aspect,
            group=f"g{index % 3}",
            label=float(labels[index]),
            description="",
            score=float(scores[index]),
            rating=Rating.of(float(scores[index])),
            error=None,
            model="m",
        )
        for index in range(count)
    ]


def texts(figure: plots.Figure) -> str:
    return "\n".join(str(item.get_text()) for item in figure.findobj(lambda artist: hasattr(artist, "get_text")))


def test_a_scatter_plot_has_a_panel_a_result_with_its_numbers(tmp_path: Path) -> None:
    figure = plots.scatter({"good": rows(0.2), "bad": rows(3), "untold": rows(0.2, count=2)})

    drawn = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_title() for axes in drawn] == ["good", "bad", "untold"]
    assert sum(len(collection.get_offsets()) for collection in drawn[0].collections) == 40
    # Two images have no correlation, and therefore no curve.
    assert [len(axes.lines) for axes in drawn] == [1, 1, 0]
    assert "n = 40, SRCC 0.9" in texts(figure)
    assert {"g0", "g1", "g2"} <= set(texts(figure).splitlines())
    plots.save(figure, tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as image:
        assert image.width > 1000
        colours = image.convert("RGB").resize((100, 100)).getcolors(10_000)
    assert colours is not None
    assert len(colours) > 20


def test_a_radar_plot_draws_models_over_aspects_and_metrics() -> None:
    figure = plots.radar(
        {
            "a": {"quality": rows(0.2), "correspondence": rows(0.5, Aspect.CORRESPONDENCE)},
            "b": {"quality": rows(1)},
        }
    )

    [panel] = figure.axes
    labels = [label.get_text() for label in panel.get_xticklabels()]
    assert labels[0] == "SRCC\nquality"
    assert len(labels) == 8
    assert [line.get_label() for line in panel.lines] == ["a", "b"]
    a, b = (np.asarray(line.get_ydata(), dtype=float) for line in panel.lines)
    assert (a[:4] > b[:4]).all()
    assert np.isnan(b[4:8]).all()


def test_a_radar_plot_of_too_little_is_refused() -> None:
    with pytest.raises(DataError, match="at least three"):
        plots.radar({"a": {"quality": rows(1, count=2)}})


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


def test_the_command_draws_several_models(make_data: MakeData, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_data(9, mos_quality=lambda index: index % 5, mos_align=lambda index: index % 4)
    for aspect in ("quality", "correspondence"):
        command = [
            "predict",
            str(folder),
            "--aspect",
            aspect,
            "--model",
            "fake",
            "--output",
            str(folder / f"{aspect}.csv"),
        ]
        assert main(command) == 0
    results = [str(folder / "quality.csv"), f"other={folder / 'quality.csv'}", str(folder / "correspondence.csv")]

    for kind, name in (("scatter", "s.pdf"), ("radar", "r.svg")):
        assert main(["plot", *results, "--kind", kind, "--output", str(folder / name)]) == 0
        assert (folder / name).stat().st_size > 2000

    assert main(["plot", results[0], results[0], "--output", str(folder / "x.png")]) == 2
    assert "tell them apart with NAME=" in capsys.readouterr().err
    assert main(["plot", results[0], "--output", str(folder / "x.docx")]) == 2
    assert "cannot draw" in capsys.readouterr().err
