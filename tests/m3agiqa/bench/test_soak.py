from __future__ import annotations

import pytest
import torch

from m3agiqa.bench.soak import After, Soak, soak
from m3agiqa.bench.synthetic import random_network
from m3agiqa.engine.scoring import Engine
from m3agiqa.profile import Describe, ModelProfile
from tests.m3agiqa.bench.test_precision import CPU, SHAPE


class Hoarder(Engine):
    """Keeps what it was asked about, as a cache without a bound does."""

    def run(self, jobs):  # type: ignore[no-untyped-def]
        self.__dict__.setdefault("hoard", []).extend(jobs)
        return super().run(jobs)


def made(kind: type[Engine]) -> Engine:
    profile = ModelProfile.load("published").model_copy(update={"describe": Describe(max_new_tokens=3)})
    return kind(random_network(SHAPE, device=CPU, dtype=torch.float32), profile, CPU, max_batch=3)


@pytest.mark.slow
def test_nothing_of_a_batch_stays_behind() -> None:
    # given batches of several sizes, the largest first, so that the cache has room for all
    soaked = soak(made(Engine), 6, (3, 1, 2), 64)
    # then as many tensors live after the last as after the first of its size
    assert [after.images for after in soaked.batches] == [3, 1, 2, 3, 1, 2]
    assert soaked.growth("tensors") == 0
    assert soaked.growth("tensor_bytes") == 0
    assert soaked.captured == 0
    assert all(after.host_bytes > 0 and after.device_bytes == 0 for after in soaked.batches)


@pytest.mark.slow
def test_what_stays_behind_is_seen() -> None:
    soaked = soak(made(Hoarder), 4, (2, 1), 64)
    assert soaked.growth("tensors") > 0
    assert soaked.growth("tensor_bytes") > 0


def test_growth_is_that_of_the_size_that_grew_most() -> None:
    batches = [(4, 100), (1, 10), (4, 90), (1, 13), (4, 101)]
    soaked = Soak(tuple(After(count, tensors, 0, 0, 0) for count, tensors in batches), captured=0)
    assert soaked.growth("tensors") == 3


@pytest.mark.skipif(not hasattr(torch.cuda.CUDAGraph, "capture_begin"), reason="a torch for the CPU alone")
def test_captures_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    from m3agiqa.bench.soak import _counting_captures

    monkeypatch.setattr(torch.cuda.CUDAGraph, "capture_begin", lambda graph: None)
    with _counting_captures() as captures:
        torch.cuda.CUDAGraph.capture_begin("a graph")  # type: ignore[arg-type]
    assert captures == ["a graph"]
