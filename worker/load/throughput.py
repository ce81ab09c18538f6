"""Measures how much of a model's own throughput a worker reaches: the same images by the queue, and without it."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import median, quantiles

from m3agiqa.contract import Failure
from m3agiqa.errors import ScoringError
from m3agiqa.images import DecodedImage, noise_image
from m3agiqa.jobs import Job
from m3agiqa.scorer import Scoring, load_scorer
from producers import ScoreRequest
from worker.demo.processes import DemoFailed
from worker.load.rig import Arrived, rig

#: Stages of a verdict in which no model works.
_AROUND = frozenset({"queue", "fetch", "open", "score", "prepare", "wait"})
#: Full batches that the model scores without a queue. Both ways begin with one that does not count.
_REPEATS = 3


@dataclass(frozen=True)
class Load:
    model: str
    device: str
    pictures: int
    max_batch: int
    #: Side of the square images, pixels.
    side: int
    #: Milliseconds that the first image of a batch waits for others.
    max_wait_ms: int = 50


@dataclass(frozen=True)
class Throughput:
    """Figures of a load, all of whose images are submitted at once to a worker that has scored a batch before."""

    pictures: int
    #: Seconds from the first submission to the last callback.
    seconds: float
    pictures_per_s: float
    #: Images a second of the model without a queue, in full batches.
    engine_per_s: float
    #: Mean number of images in a batch.
    batch: float
    #: Median seconds that the model took for a batch of the largest size seen.
    batch_s: float
    #: Seconds from submission until a thread of the worker took a request.
    queue_p50_s: float
    queue_p95_s: float
    #: Milliseconds that an image waited for its batch after it was opened and cut.
    wait_p50_ms: float
    wait_p95_ms: float

    @property
    def share(self) -> float:
        """The worker's throughput as a part of the engine's own."""
        return self.pictures_per_s / self.engine_per_s


def run(load: Load, progress: Callable[[str], None] = lambda what: None) -> Throughput:
    """Measure.

    Raises:
        DemoFailed: a worker did not come up, or a callback did not come.
        M3AGIQAError: the model cannot be loaded, or cannot score an image.
    """
    arrived, seconds = by_queue(load, progress)
    progress("the model without a queue")
    # Only after the worker has ended, as both would share the device.
    scoring = load_scorer(load.model, load.device, max_batch=load.max_batch)
    images = [noise_image(load.side, load.side, seed) for seed in range(load.max_batch)]
    return summary(arrived, seconds, _engine_per_s(scoring, images))


def by_queue(
    load: Load, progress: Callable[[str], None] = lambda what: None, *, gpus: int | None = None
) -> tuple[list[Arrived], float]:
    """What came of a load, and the seconds from the first submission to the last callback.

    Args:
        load: the whole load.
        progress: called as it goes on.
        gpus: so many workers score, each on a GPU of its own; None is one that sees all.

    Raises:
        DemoFailed: a worker did not come up, or a callback did not come.
    """
    first = load.max_batch * (gpus or 1)
    images = [noise_image(load.side, load.side, seed) for seed in range(first + load.pictures)]
    settings = {
        "model": load.model,
        "device": load.device,
        "max_batch": load.max_batch,
        "max_wait_ms": load.max_wait_ms,
    }
    progress("starting Valkey and the workers")
    with rig([_png(image) for image in images], score_threads=2 * load.max_batch, gpus=gpus, **settings) as platform:
        endpoint = platform.receiver.endpoint
        platform.client.submit_many(_requests(endpoint, range(first)))
        platform.receiver.wait(first)
        progress(f"{load.pictures} images by way of the queue")
        began = time.monotonic()
        platform.client.submit_many(_requests(endpoint, range(first, len(images))))
        arrived = platform.receiver.wait(load.pictures)
        seconds = time.monotonic() - began
    progress(f"took {seconds:.1f} s")
    return arrived, seconds


def summary(arrived: Sequence[Arrived], seconds: float, engine_per_s: float) -> Throughput:
    """Raises DemoFailed if an image was not scored."""
    batch = mean_batch(arrived)
    largest = max(each.batch or 0 for each in arrived)
    queue, wait = (_p50_p95([each.timings_ms[name] for each in arrived]) for name in ("queue", "wait"))
    return Throughput(
        pictures=len(arrived),
        seconds=seconds,
        pictures_per_s=len(arrived) / seconds,
        engine_per_s=engine_per_s,
        batch=batch,
        batch_s=median(_model_ms(each) for each in arrived if each.batch == largest) / 1000,
        queue_p50_s=queue[0] / 1000,
        queue_p95_s=queue[1] / 1000,
        wait_p50_ms=wait[0],
        wait_p95_ms=wait[1],
    )


def mean_batch(arrived: Sequence[Arrived]) -> float:
    """Mean number of images in a batch.

    Raises:
        DemoFailed: an image was not scored.
    """
    if failed := [each for each in arrived if each.status != "scored" or each.batch is None]:
        raise DemoFailed(f"{len(failed)} of {len(arrived)} images were not scored, so nothing is measured")
    # Each of the n verdicts of a batch counts for 1 / n of it.
    return len(arrived) / sum(1 / each.batch for each in arrived if each.batch)


def _model_ms(arrived: Arrived) -> float:
    return sum(ms for stage, ms in arrived.timings_ms.items() if stage not in _AROUND)


def _engine_per_s(scoring: Scoring, images: Sequence[DecodedImage]) -> float:
    """Images a second in full batches. They are cut beforehand: a worker does that while it scores the batch before."""
    times = []
    for _ in range(_REPEATS + 1):
        jobs = [scoring.prepare(Job(image, _prompt(number))) for number, image in enumerate(images)]
        began = time.monotonic()
        outcomes = scoring.score(jobs)
        times.append(time.monotonic() - began)
        if failures := [outcome for outcome in outcomes if isinstance(outcome, Failure) or outcome.failures]:
            raise ScoringError(f"{len(failures)} of {len(images)} images were not scored: {failures[0]}")
    return len(images) / median(islice(times, 1, None))


def _requests(endpoint: str, numbers: Iterable[int]) -> list[ScoreRequest]:
    return [
        ScoreRequest(
            image_url=f"http://{endpoint}/{number}.png",
            prompt=_prompt(number),
            callback_url=f"http://{endpoint}/verdicts",
        )
        for number in numbers
    ]


def _prompt(number: int) -> str:
    return f"coloured blotches, number {number}, on a wall in the morning light"


def _png(image: DecodedImage) -> bytes:
    out = io.BytesIO()
    image.rgb.save(out, "PNG")
    return out.getvalue()


def _p50_p95(values: Sequence[float]) -> tuple[float, float]:
    cuts = quantiles(values, n=100, method="inclusive")
    return cuts[49], cuts[94]
