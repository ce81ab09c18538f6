"""Measures the engine at the published shapes, stage by stage, against the original's algorithm on the same weights."""

from __future__ import annotations

import datetime
import gc
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import median
from typing import Any

import torch
import transformers

from m3agiqa.bench.baseline import Baseline
from m3agiqa.bench.card import Card
from m3agiqa.bench.lengths import Lengths
from m3agiqa.bench.roofline import applies_to, card_floors_ms, floors_ms
from m3agiqa.bench.soak import Soak, soak
from m3agiqa.bench.synthetic import random_network
from m3agiqa.bench.workload import Work
from m3agiqa.contract import Aspect
from m3agiqa.engine.loading import Network
from m3agiqa.engine.scoring import Engine
from m3agiqa.errors import ConfigError, ScoringError
from m3agiqa.images import noise_image
from m3agiqa.jobs import Job
from m3agiqa.model.shape import Shape
from m3agiqa.profile import Describe, ModelProfile

#: What the original took for an image's three aspects on one H100 80GB (512x512, 100 tokens a description), seconds.
ORIGINAL_S = 18.85

_PROMPT = "a red fox in the snow " * 4
_GIB = 2**30
#: GiB of a memory limit reserved for graphs and libraries, whose memory the allocator does not count.
_UNCOUNTED_GIB = 0.25


@dataclass(frozen=True)
class StageSettings:
    images: Sequence[int] = (1, 8, 32, 64)
    size: int = 512
    tokens: int = 100
    beams: int = 3
    baseline: bool = False
    memory_limit_gib: float | None = None
    repeats: int = 3
    #: Batches to run in a row after the measured ones, to see whether memory grows.
    soak: int = 0
    #: Where descriptions' lengths are drawn from, instead of `tokens` each: a file, or `lengths.REFERENCE`.
    lengths: str | None = None
    #: Whether the language model's layers multiply in float8.
    float8: bool = False


@dataclass(frozen=True)
class Measured:
    """Medians over the repeats of one way to score a number of images, three aspects each."""

    what: str
    images: int
    seconds: float
    images_per_s: float
    stages_ms: dict[str, float]
    #: Peak device memory of the whole process, GiB.
    memory_gib: float
    #: Least milliseconds that each stage can take; empty for a GPU whose floors are unknown.
    floors_ms: dict[str, float] = field(default_factory=dict)
    #: Least milliseconds by what the card itself can do; empty for the original's algorithm.
    card_ms: dict[str, float] = field(default_factory=dict)


@dataclass
class Report:
    machine: str
    date: str
    versions: dict[str, str]
    settings: dict[str, Any]
    #: What the card can do at most, measured before the model was loaded.
    card: Card
    load_gib: float = 0.0
    rows: list[Measured] = field(default_factory=list)
    soak: Soak | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def run(settings: StageSettings, progress: Callable[[str], None] = lambda what: None) -> Report:
    """Measure the engine, and the baseline and a soak if asked for.

    Raises:
        ConfigError: no GPU.
        DataError: the lengths cannot be read.
    """
    lengths = None if settings.lengths is None else Lengths.load(settings.lengths)
    if not torch.cuda.is_available():
        raise ConfigError("bench measures at the published shapes and needs a CUDA device")
    device = torch.device("cuda", torch.cuda.current_device())
    if settings.memory_limit_gib is not None:
        free, total = torch.cuda.mem_get_info(device)
        # The allocator does not count the memory that the CUDA context takes.
        allowed = (settings.memory_limit_gib - _UNCOUNTED_GIB) * _GIB - (total - free)
        torch.cuda.set_per_process_memory_fraction(min(1.0, allowed / total), device)
    progress("the card")
    card = Card.measure(device, torch.float16)
    report = Report(
        machine=torch.cuda.get_device_name(device),
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        versions={"torch": torch.__version__, "transformers": transformers.__version__},
        settings=asdict(settings),
        card=card,
    )
    progress("weights")
    shape = Shape()
    network = random_network(shape, device=device, dtype=torch.float16, float8=settings.float8)
    # Random weights should write no end token.
    network.tokenizer.eos_ids = [shape.vocab - 1, shape.vocab - 2]
    profile = _profile(settings)
    report.load_gib = _used_gib(device)
    if settings.baseline:
        progress("baseline")
        report.rows.append(_baseline(network, shape, profile, settings))
    progress("capture")
    limit = None if settings.memory_limit_gib is None else int((settings.memory_limit_gib - _UNCOUNTED_GIB) * _GIB)
    engine = Engine(network, profile, device, max_batch=max(settings.images), memory_bytes=limit)
    for count in settings.images:
        progress(f"{count} images")
        jobs = [Job(noise_image(settings.size, settings.size, seed), _PROMPT) for seed in range(count)]
        if lengths is not None:
            jobs = limited(jobs, lengths)
        report.rows.append(_engine(engine, jobs, settings, shape, report))
    if settings.soak:
        progress(f"{settings.soak} batches in a row")
        report.soak = soak(engine, settings.soak, settings.images, settings.size)
    return report


def limited(jobs: Sequence[Job], lengths: Lengths) -> list[Job]:
    """Jobs whose descriptions end at lengths drawn for all aspects together."""
    drawn = iter(lengths.draw(len(jobs) * len(Aspect)))
    return [replace(job, limits={aspect: next(drawn) for aspect in Aspect}) for job in jobs]


def _profile(settings: StageSettings) -> ModelProfile:
    profile = ModelProfile.load("published")
    # Real descriptions end long before the profile's own limit.
    tokens = settings.tokens if settings.lengths is None else profile.describe.max_new_tokens
    describe = Describe(num_beams=settings.beams, max_new_tokens=tokens)
    return profile.model_copy(update={"describe": describe})


def _baseline(network: Network, shape: Shape, profile: ModelProfile, settings: StageSettings) -> Measured:
    baseline = Baseline(network, shape, profile)
    images = [noise_image(settings.size, settings.size, seed) for seed in range(2)]
    baseline.score(images[0], _PROMPT, Aspect.QUALITY)  # compiles, chooses algorithms
    torch.cuda.reset_peak_memory_stats()
    times = [baseline.score(image, _PROMPT, aspect)[1] for image in images for aspect in profile.aspects]
    stages = {name: sum(each[name] for each in times) / len(images) for name in times[0]}
    seconds = sum(stages.values()) / 1000
    measured = Measured("original's algorithm", 1, seconds, 1 / seconds, stages, _used_gib(network.language.device))
    del baseline
    gc.collect()
    torch.cuda.empty_cache()
    return measured


def _engine(engine: Engine, jobs: Sequence[Job], settings: StageSettings, shape: Shape, report: Report) -> Measured:
    work = _work(engine, jobs)  # compiles kernels, too
    runs = []
    for _ in range(settings.repeats):
        prepared = [engine.prepare(job) for job in jobs]  # a worker does this while it scores the batch before
        torch.cuda.synchronize()
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record()
        outcomes = engine.run(prepared)
        ended.record()
        torch.cuda.synchronize()
        for outcome in outcomes:
            if outcome.failures:
                raise ScoringError(f"an image failed: {next(iter(outcome.failures.values())).message}")
        runs.append((began.elapsed_time(ended) / 1000, outcomes[0].timings_ms))
    seconds = median(seconds for seconds, _ in runs)
    stages = {name: median(times[name] for _, times in runs) for name in runs[0][1]}
    floors = floors_ms(work, shape, settings.beams) if applies_to(report.machine) else {}
    card = card_floors_ms(work, shape, settings.beams, report.card)
    memory_gib = _used_gib(torch.device("cuda", torch.cuda.current_device()))
    return Measured("engine", len(jobs), seconds, len(jobs) / seconds, stages, memory_gib, floors, card)


def _work(engine: Engine, jobs: Sequence[Job]) -> Work:
    """Count the work in a batch of these jobs, by scoring it step by step."""
    rows = engine.encode([engine.prepare(job) for job in jobs])
    session = engine.prefill(rows)
    engine.describe(rows, session)
    engine.rate(rows, engine.read(rows, session))
    return Work.from_rows(rows, engine.network.towers)


def _used_gib(device: torch.device) -> float:
    """GiB of device memory in use by all processes: ours, with its context and graphs, if it is alone."""
    free, total = torch.cuda.mem_get_info(device)
    return (total - free) / _GIB
