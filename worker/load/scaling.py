"""Measures what several GPUs of one host reach with one Redis: a worker on each, against one worker alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from worker.load.throughput import Load, by_queue, mean_batch


@dataclass(frozen=True)
class Scaling:
    """Figures of a load for one worker, and of `gpus` times that load for as many workers."""

    gpus: int
    #: Images that all workers scored.
    pictures: int
    #: Seconds from the first submission to the last callback.
    seconds: float
    #: Mean number of images in a batch.
    batch: float
    #: Images a second of one worker alone, by way of the queue.
    one_per_s: float

    @property
    def pictures_per_s(self) -> float:
        return self.pictures / self.seconds

    @property
    def share(self) -> float:
        """Throughput as a part of `gpus` times that of one worker."""
        return self.pictures_per_s / (self.gpus * self.one_per_s)


def run(load: Load, gpus: int, progress: Callable[[str], None] = lambda what: None) -> Scaling:
    """Measure. Without GPUs, `load.device` being `cpu`, so many workers share the processor.

    Raises:
        DemoFailed: a worker did not come up, a callback did not come, an image was not scored, or this process sees
            fewer GPUs.
    """
    arrived, alone_s = by_queue(load, progress, gpus=1)
    mean_batch(arrived)  # all were scored
    all_of_it = replace(load, pictures=gpus * load.pictures)
    arrived, seconds = by_queue(all_of_it, progress, gpus=gpus)
    return Scaling(gpus, len(arrived), seconds, mean_batch(arrived), load.pictures / alone_s)
