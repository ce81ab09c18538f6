from __future__ import annotations

import numpy as np
import pytest

from m3agiqa.cli import main
from m3agiqa.contract import Aspect, Rating
from m3agiqa.train.evaluation.figures import radar_numbers, scatter_panel
from m3agiqa.train.evaluation.predictions import Prediction
from tests.m3agiqa.train.conftest import MakeData


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
            rating=Rating.from_score(float(scores[index])),
            error=None,
            model="m",
        )
        for index in range(count)
    ]


def test_a_panel_holds_scores_labels_groups_a_curve_and_correlations() -> None:
    panel = scatter_panel(rows(0.2))

    assert len(panel.scores) == len(panel.labels) == len(panel.groups or ()) == 40
    assert list(panel.correlations) == ["SRCC", "PLCC, logistic", "KRCC", "SRCC within"]
    value, interval = panel.correlations["SRCC"]
    assert value > 0.9
    assert interval is not None
    assert interval[0] < value < interval[1]
    # The curve runs over all scores, and close to the labels.
    assert panel.curve is not None
    x, y = panel.curve
    assert (x[0], x[-1]) == (min(panel.scores), max(panel.scores))
    assert np.abs(np.interp(panel.scores, x, y) - panel.labels).mean() < 0.5


def test_two_images_have_no_correlation_and_no_curve() -> None:
    panel = scatter_panel(rows(0.2, count=2))

    assert len(panel.scores) == 2
    assert panel.curve is None
    assert panel.correlations == {}
    assert radar_numbers({"quality": rows(0.2, count=2)}) == {}


def test_a_radar_plot_has_an_axis_for_each_aspect_and_correlation() -> None:
    good = radar_numbers({"quality": rows(0.2), "correspondence": rows(0.5, Aspect.CORRESPONDENCE)})
    bad = radar_numbers({"quality": rows(1)})

    assert next(iter(good)) == "SRCC\nquality"
    assert len(good) == 8
    assert list(bad) == list(good)[:4]
    assert all(good[axis] > bad[axis] for axis in bad)


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
