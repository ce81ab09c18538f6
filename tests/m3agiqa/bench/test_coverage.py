"""The measurement of how often promises are kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from m3agiqa.bench import coverage
from m3agiqa.contract import Aspect
from m3agiqa.errors import DataError, UsageError
from m3agiqa.report.calibration import Goal
from tests.m3agiqa.report.made import records, write_batch


def test_every_promise_is_measured_in_every_way(capsys: pytest.CaptureFixture[str]) -> None:
    assert coverage.main(["--synthetic", "150", "--repeats", "3"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 3 * len(coverage.PROMISES)
    assert all(line["repeats"] == 3 and 0 <= line["kept_truth"] <= 1 for line in lines)


def test_a_broken_promise_is_counted() -> None:
    # given images of which the others are all rejected though all are good
    random = coverage.np.random.default_rng(0)
    mine = coverage.World().draw(400, random)
    others = coverage.Images(coverage.np.zeros(10), coverage.np.ones(10, dtype=bool))
    tally = coverage.repeat(iter([(mine, others)]), Goal.FALSE_REJECT, 0.1, coverage.Way(""), random, lambda *_: 0.05)
    assert (tally.broken_on_others, tally.broken_in_truth) == (1, 0)


def test_human_scores_are_labels(tmp_path: Path) -> None:
    rows = [
        row
        for name, score in (("x/a.png", 1.0), ("b.png", 2.0), ("c.png", 3.0))
        for row in records(name, quality=score)
    ]
    human = tmp_path / "data.csv"
    human.write_text("name,mos_quality\na.png,1.9\nb.png,2\n")
    verdicts = write_batch(tmp_path / "v.json", rows)
    images = coverage.read_images(verdicts, human, aspect=Aspect.QUALITY, column="mos_quality", below=2.0)
    assert images.scores.tolist() == [1, 2]
    assert images.is_good.tolist() == [False, True]
    human.write_text("name,mos_quality\nz.png,1\n")
    with pytest.raises(DataError, match="no score of quality of an image"):
        coverage.read_images(verdicts, human, aspect=Aspect.QUALITY, column="mos_quality", below=2.0)
    with pytest.raises(UsageError):
        coverage.main([])
