from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
import torch

from m3agiqa.bench import state_cache
from m3agiqa.bench.state_cache import _same_losses
from m3agiqa.cli import main
from m3agiqa.contract import Failure
from m3agiqa.engine.scoring import Engine
from m3agiqa.jobs import Job
from m3agiqa.train.head.states import read_states


@pytest.mark.slow
def test_training_from_the_cache_learns_what_reading_anew_does(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []

    def counted(engine: Engine, jobs: Sequence[Job], descriptions: Sequence[str]) -> list[torch.Tensor | Failure]:
        read.append(len(jobs))
        return read_states(engine, jobs, descriptions)

    monkeypatch.setattr(state_cache, "read_states", counted)

    assert main(["bench", "--training", "--device", "cpu", "--training-images", "10", "--epochs", "2", "--json"]) == 0

    measured = json.loads(capsys.readouterr().out)
    assert measured["same"]
    assert (measured["device"], measured["images"], measured["epochs"]) == ("cpu", 10, 2)
    # To warm up, for the cache, and in each of two epochs.
    assert read == [10] * 4


def test_losses_are_the_same_up_to_rounding_and_no_further() -> None:
    exact, rounded, other = ([{"train_loss": loss} for loss in (8.0787, last)] for last in (4.4494, 4.44942, 4.5504))

    assert _same_losses(exact, rounded)
    assert not _same_losses(exact, other)
    assert not _same_losses(exact, exact[:1])


def test_too_few_images_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["bench", "--training", "--device", "cpu", "--training-images", "3"])
    assert "--training-images: '3' is not a whole number from 8" in capsys.readouterr().err
