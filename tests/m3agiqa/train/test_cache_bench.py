from __future__ import annotations

import json

import pytest

from m3agiqa.cli import main


@pytest.mark.slow
def test_training_from_the_cache_learns_what_reading_anew_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--training", "--device", "cpu", "--pictures", "10", "--epochs", "2", "--json"]) == 0

    measured = json.loads(capsys.readouterr().out)
    assert measured["same"]
    assert (measured["device"], measured["pictures"], measured["epochs"]) == ("cpu", 10, 2)
    assert measured["ratio"] == pytest.approx(measured["anew_s"] / measured["from_cache_s"])


def test_too_few_pictures_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--training", "--device", "cpu", "--pictures", "3"]) == 1
    assert "--pictures must be at least 8" in capsys.readouterr().err
