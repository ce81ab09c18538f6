"""Runs batch after batch through one engine, and counts the memory that stays taken and the graphs captured late."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import torch

from m3agiqa.engine.scoring import Engine
from m3agiqa.errors import ScoringError
from m3agiqa.images import noise_image
from m3agiqa.jobs import Job
from m3agiqa.memory import resident_bytes


@dataclass(frozen=True)
class After:
    """Memory in use after a batch."""

    images: int
    #: Live tensors, and their bytes on all devices.
    tensors: int
    tensor_bytes: int
    #: Bytes that torch's allocator holds on the GPU; 0 without one.
    device_bytes: int
    #: Bytes of the process in the host's memory.
    host_bytes: int


@dataclass(frozen=True)
class Soak:
    #: Batches in order, after one warm-up batch of each size.
    batches: tuple[After, ...]
    #: CUDA graphs captured during these batches; none should be.
    captured: int

    def growth(self, what: str) -> int:
        """The largest growth of a field of `After` from the first to the last batch of one size."""
        values: dict[int, list[int]] = {}
        for after in self.batches:
            values.setdefault(after.images, []).append(getattr(after, what))
        return max(each[-1] - each[0] for each in values.values())


def soak(engine: Engine, batches: int, images: Sequence[int], size: int) -> Soak:
    """Score `batches` batches of new images, about `size` pixels on a side; batch sizes cycle through `images`.

    Raises:
        ScoringError: an image cannot be scored.
    """
    for number, count in enumerate(images):
        _score(engine, count, size, -1 - number)
    with _counting_captures() as captures:
        after = [_score(engine, count, size, number) for number, count in enumerate(islice(cycle(images), batches))]
    return Soak(tuple(after), len(captures))


def _score(engine: Engine, count: int, size: int, number: int) -> After:
    jobs = [
        engine.prepare(Job(noise_image(size, size + 14 * (seed % 3), 1000 * number + seed), f"number {number}"))
        for seed in range(count)
    ]
    for outcome in engine.run(jobs):
        if outcome.failures:
            raise ScoringError(f"an image failed: {next(iter(outcome.failures.values())).message}")
    del jobs, outcome
    gc.collect()
    # `isinstance` would read `__class__`, and some lazy objects import their module to answer.
    tensors: list[Any] = [each for each in gc.get_objects() if issubclass(type(each), torch.Tensor)]
    return After(
        images=count,
        tensors=len(tensors),
        tensor_bytes=sum(each.untyped_storage().nbytes() for each in tensors if not each.is_meta),
        device_bytes=torch.cuda.memory_allocated() if torch.cuda.is_available() else 0,
        host_bytes=resident_bytes(),
    )


@contextmanager
def _counting_captures() -> Iterator[list[object]]:
    """Yield a list that grows by one with each CUDA graph that is captured."""
    captures: list[object] = []
    begin = getattr(torch.cuda.CUDAGraph, "capture_begin", None)
    if begin is None:  # torch was built for CPUs only
        yield captures
        return

    def counted(graph: Any, *args: Any, **options: Any) -> Any:
        captures.append(graph)
        return begin(graph, *args, **options)

    torch.cuda.CUDAGraph.capture_begin = counted  # type: ignore[method-assign, assignment]
    try:
        yield captures
    finally:
        torch.cuda.CUDAGraph.capture_begin = begin  # type: ignore[method-assign]
