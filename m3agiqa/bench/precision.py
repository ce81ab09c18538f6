"""Measures how half precision and batching change scores: against float32 with the same random weights, and against
each image scored alone.

Both sides of a comparison score the same given descriptions, because another description is another input. The
agreement of written descriptions is measured separately. Heads are rescaled so that images score far enough apart for
a difference to count.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from m3agiqa.bench.synthetic import random_network
from m3agiqa.contract import Aspect, AspectScore
from m3agiqa.engine.loading import Network
from m3agiqa.engine.scoring import Engine
from m3agiqa.errors import ScoringError
from m3agiqa.images import noise_image
from m3agiqa.jobs import Job, Scores
from m3agiqa.model.shape import Shape
from m3agiqa.profile import Describe, ModelProfile
from m3agiqa.train.evaluation.metrics import srcc

#: Points between an aspect's lowest and highest score after its head is rescaled; a useful spread is at least 0.5.
SPREAD = 0.6
#: The middle of the scale. Rescaled scores lie around it, because clamped scores would hide differences.
_MIDDLE = 2.5
#: Images in a float32 batch, which takes twice the memory of half precision.
_FLOAT32_BATCH = 8
_SIZES = ((512, 512), (448, 448), (1024, 768), (300, 900), (64, 64), (1024, 1024), (768, 512), (640, 640))

#: Scores of one image, by aspect.
_Outcome = Mapping[Aspect, AspectScore]


@dataclass(frozen=True)
class PrecisionSettings:
    dtype: torch.dtype = torch.float16
    #: Whether the language model's layers multiply in float8.
    float8: bool = False
    images: int = 32
    tokens: int = 100
    beams: int = 3


@dataclass(frozen=True)
class Precision:
    """Results of one run; scores are points of the scale from 0 to 5."""

    dtype: str
    images: int
    tokens: int
    beams: int
    #: Points between the lowest and the highest float32 score of an aspect, the narrowest of the three.
    spread: float
    #: Largest difference between a score and float32's score for the same description.
    from_float32: float
    #: Median and 95th percentile of those differences, and the rank correlation of the two, the lowest of the aspects.
    from_float32_median: float
    from_float32_95th: float
    srcc: float
    #: Largest difference between an image's score alone and in one batch with all images, for the same description.
    alone_from_batch: float
    #: Largest difference between a score by the states of writing a description and one by the states of reading it.
    written_from_read: float
    #: Mean share of a description's tokens that float32's own description has at the same positions.
    tokens_matching: float
    #: Share of descriptions that are identical to float32's.
    descriptions_matching: float


def run(
    settings: PrecisionSettings, device: torch.device, shape: Shape, progress: Callable[[str], None] = lambda what: None
) -> Precision:
    """Measure one network after the other, so that they need not fit the GPU together.

    Raises:
        ScoringError: an image cannot be scored, or all images score the same.
    """
    jobs = [
        Job(noise_image(*_SIZES[seed % len(_SIZES)], seed), "a red fox in the snow " * (seed % 5))
        for seed in range(settings.images)
    ]
    network = _network(settings.dtype, settings, device, shape, float8=settings.float8)
    name = network.language.precision
    engine = _engine(network, settings, device, settings.images)
    progress(f"{settings.images} images in {name}")
    written = _score(engine, jobs, settings.images)
    given = [_with_descriptions(job, outcome) for job, outcome in zip(jobs, written, strict=True)]
    scales = _rescale(network, _score(engine, given, settings.images))
    together = _score(engine, given, settings.images)
    described = _score(engine, jobs, settings.images)
    progress("each alone")
    alone = _score(engine, given, 1)
    del network, engine
    _free()
    progress("float32 weights")
    network = _network(torch.float32, settings, device, shape)
    _apply(network, scales)
    engine = _engine(network, settings, device, min(_FLOAT32_BATCH, settings.images))
    progress(f"{settings.images} images in float32")
    exact = _score(engine, given, _FLOAT32_BATCH)
    own = _score(engine, jobs, _FLOAT32_BATCH)
    del network, engine
    _free()
    apart = np.array([abs(one.score - other.score) for one, other in _pairs(together, exact)])
    matches = [_matching(mine.description.split(), theirs.description.split()) for mine, theirs in _pairs(written, own)]
    return Precision(
        dtype=name,
        images=settings.images,
        tokens=settings.tokens,
        beams=settings.beams,
        spread=min(_spread(_scores(exact, aspect)) for aspect in exact[0]),
        from_float32=float(apart.max()),
        from_float32_median=float(np.median(apart)),
        from_float32_95th=float(np.percentile(apart, 95)),
        srcc=min(srcc(np.array(_scores(together, aspect)), np.array(_scores(exact, aspect))) for aspect in exact[0]),
        alone_from_batch=max(abs(one.score - other.score) for one, other in _pairs(alone, together)),
        written_from_read=max(
            abs(one.score - other.score)
            for one, other in _pairs(described, together)
            if one.description == other.description
        ),
        tokens_matching=sum(matches) / len(matches),
        descriptions_matching=sum(match == 1 for match in matches) / len(matches),
    )


def _network(
    dtype: torch.dtype, settings: PrecisionSettings, device: torch.device, shape: Shape, *, float8: bool = False
) -> Network:
    # Both networks take weights rounded to the narrower type, so that they compute with the same numbers.
    network = random_network(shape, device=device, dtype=dtype, stored=settings.dtype, float8=float8)
    # Random weights should write no end token.
    network.tokenizer.eos_ids = [shape.vocab - 1, shape.vocab - 2]
    return network


def _engine(network: Network, settings: PrecisionSettings, device: torch.device, max_batch: int) -> Engine:
    describe = Describe(num_beams=settings.beams, max_new_tokens=settings.tokens)
    profile = ModelProfile.load("published").model_copy(update={"describe": describe})
    return Engine(network, profile, device, max_batch=max_batch)


def _score(engine: Engine, jobs: Sequence[Job], batch: int) -> list[_Outcome]:
    outcomes = [outcome for start in range(0, len(jobs), batch) for outcome in engine.run(jobs[start : start + batch])]
    return [_whole(outcome) for outcome in outcomes]


def _whole(outcome: Scores) -> _Outcome:
    if outcome.failures:
        raise ScoringError(f"an image failed: {next(iter(outcome.failures.values())).message}")
    return outcome.aspects


def _with_descriptions(job: Job, outcome: _Outcome) -> Job:
    return replace(job, descriptions={aspect: scored.description for aspect, scored in outcome.items()})


def _rescale(network: Network, outcomes: Sequence[_Outcome]) -> dict[Aspect, tuple[float, float]]:
    """Rescale heads to spread these scores over SPREAD or more, around the middle; return factor and old middle."""
    scales = {}
    for aspect in network.heads:
        scores = _scores(outcomes, aspect)
        if _spread(scores) == 0:
            raise ScoringError(f"{aspect}: all images score the same, so no scale makes a difference count")
        scales[aspect] = (max(1.0, SPREAD / _spread(scores)), (max(scores) + min(scores)) / 2)
    _apply(network, scales)
    return scales


def _apply(network: Network, scales: Mapping[Aspect, tuple[float, float]]) -> None:
    for aspect, (factor, middle) in scales.items():
        last: Any = network.heads[aspect].fc[-1]
        last.weight.mul_(factor)
        last.bias.sub_(middle).mul_(factor).add_(_MIDDLE)


def _scores(outcomes: Sequence[_Outcome], aspect: Aspect) -> list[float]:
    return [outcome[aspect].score for outcome in outcomes]


def _spread(scores: Sequence[float]) -> float:
    return max(scores) - min(scores)


def _pairs(ones: Sequence[_Outcome], others: Sequence[_Outcome]) -> list[tuple[AspectScore, AspectScore]]:
    return [(one[aspect], other[aspect]) for one, other in zip(ones, others, strict=True) for aspect in one]


def _matching(ones: Sequence[str], others: Sequence[str]) -> float:
    """Share of the longer sequence's positions at which both have the same token."""
    same = sum(one == other for one, other in zip(ones, others, strict=False))
    return same / max(len(ones), len(others), 1)


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
