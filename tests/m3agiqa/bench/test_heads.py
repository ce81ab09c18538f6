from __future__ import annotations

import json

import pytest
import torch

from m3agiqa.bench.heads import run
from m3agiqa.cli import main
from m3agiqa.model.shape import Shape


def test_both_loops_compute_the_same_of_the_same_gates() -> None:
    times = run(torch.device("cpu"), rows=3, tokens=20, repeats=2, shape=Shape(vocab=64, hidden=32, head_width=64))
    assert (times.rows, times.tokens) == (3, 20)
    assert times.difference is not None
    assert times.difference < 1e-5
    assert times.package_ms is not None
    assert times.ratio == times.package_ms / times.recurrence_ms


@pytest.mark.slow
def test_the_command_measures_heads_on_a_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--heads", "--device", "cpu", "--rows", "1", "--repeats", "1", "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert (measured["device"], measured["rows"], measured["tokens"]) == ("cpu", 1, 600)
    assert measured["ratio"] == pytest.approx(measured["package_ms"] / measured["recurrence_ms"])


@pytest.mark.parametrize("mode", [[], ["--precision"], ["--soak", "3"]])
def test_what_needs_a_gpu_says_so(mode: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--device", "cpu", *mode]) == 1
    assert "only `bench --heads` and `bench --training` run on a CPU" in capsys.readouterr().err
