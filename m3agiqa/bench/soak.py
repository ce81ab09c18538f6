"""Batch after batch through one engine: what stays behind, and what is captured that should have been."""

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
    """What there was after a batch."""

    images: int
    #: Tensors that live, and their bytes on any device.
    tensors: int
    tensor_bytes: int
    #: Bytes of torch's allocator on the GPU; 0 without one.
    device_bytes: int
    #: Bytes of the process in the host's memory.
    host_bytes: int


@dataclass(frozen=True)
class Soak:
    #: Batches in order, behind one of each size that is not counted.
    batches: tuple[After, ...]
    #: CUDA graphs that were captured in these batches.
    captured: int

    def growth(self, what: str) -> int:
        """Growth of a field of `After`, from the first to the last batch of the same size, the largest of all sizes."""
        values: dict[int, list[int]] = {}
        for after in self.batches:
            values.setdefault(after.images, []).append(getattr(after, what))
        return max(each[-1] - each[0] for each in values.values())


def soak(engine: Engine, batches: int, images: Sequence[int], size: int) -> Soak:
    """Score batches of `images` images in turn, each of images of its own, about `size` pixels on a side.

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
    # Not isinstance: some objects answer to what is asked of them by importing it.
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
    """A list that grows by one with each CUDA graph that is captured."""
    captures: list[object] = []
    begin = getattr(torch.cuda.CUDAGraph, "capture_begin", None)
    if begin is None:  # a torch for the CPU alone
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
