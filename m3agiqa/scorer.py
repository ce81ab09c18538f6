"""The one door to the model: images with their prompts in, scores or typed failures out, in order.

Importing this module does not import torch; `Scorer.load` does.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, Self

from m3agiqa import hub
from m3agiqa.contract import Aspect, AspectScore, Failure, ModelInfo, Rating
from m3agiqa.cutting import Cutter
from m3agiqa.errors import DeviceLost
from m3agiqa.jobs import Job, Scores
from m3agiqa.profile import ModelProfile
from m3agiqa.progress import Progress, unseen

if TYPE_CHECKING:
    from m3agiqa.engine.scoring import Engine

__all__ = ["FakeScorer", "Job", "Scorer", "Scores", "Scoring", "load_scorer"]


class Scoring(Protocol):
    """What the worker and the command line need of a scorer."""

    info: ModelInfo
    aspects: tuple[Aspect, ...]

    @property
    def cutter(self) -> Cutter | None:
        """Cuts images for this scorer, in any process; None if the scorer does not look at images."""
        ...

    def prepare(self, job: Job) -> Job:
        """Do ahead of time, in any thread, the work that needs no model. A bad image is left for `score` to report."""
        ...

    def score(self, jobs: Sequence[Job]) -> list[Scores | Failure]:
        """Score a batch; the result has the length and order of `jobs`. One bad image raises nothing."""
        ...


class Scorer:
    """The model of one profile on one device, every weight loaded once."""

    def __init__(self, engine: Engine, info: ModelInfo, *, max_batch: int = 8) -> None:
        self.info = info
        self.aspects = engine.aspects
        self.max_batch = max_batch
        self._engine = engine

    @classmethod
    def load(
        cls,
        profile: ModelProfile | str,
        device: str = "auto",
        *,
        max_batch: int = 8,
        progress: Progress = unseen,
    ) -> Self:
        """Find a profile's weights, download them if need be, and load them.

        Args:
            profile: a profile, or its name or path.
            device: "cpu", "cuda", "cuda:1", or "auto" for a GPU if there is one.
            max_batch: images that run through the model together at most.
            progress: called as weights are loaded.

        Raises:
            ConfigError: no such profile or device.
            CheckpointError: weights are missing or do not fit.
        """
        from m3agiqa.engine.scoring import Engine

        if isinstance(profile, str):
            profile = ModelProfile.load(profile)
        resolved = hub.resolve(profile)
        engine = Engine.load(profile, resolved, device, max_batch=max_batch, progress=progress)
        info = ModelInfo(
            profile=profile.name,
            base=profile.base,
            adapters={aspect: part.adapter for aspect, part in profile.aspects.items()},
            heads={aspect: str(part.head) for aspect, part in profile.aspects.items()},
            revisions=resolved.revisions,
            dtype=engine.dtype,
            engine=engine.name,
            trained=profile.trained,
        )
        return cls(engine, info, max_batch=max_batch)

    @property
    def cutter(self) -> Cutter:
        return self._engine.cutter

    def prepare(self, job: Job) -> Job:
        """Cut the image unless it is cut, and move its slices where a GPU reads them; safe in any thread."""
        return self._engine.prepare(job)

    def score(self, jobs: Sequence[Job]) -> list[Scores | Failure]:
        """Score images; the result has the length and order of `jobs`, and one bad image fails alone.

        Raises:
            DeviceLost: the device failed, and this scorer can score no more images.
        """
        batches = (jobs[start : start + self.max_batch] for start in range(0, len(jobs), self.max_batch))
        return [outcome for batch in batches for outcome in self._score_isolated(batch)]

    def _score_isolated(self, jobs: Sequence[Job]) -> list[Scores | Failure]:
        """Score a batch; if it fails as a whole, halve it until the failing image stands alone.

        Halving also gets a batch through that ran out of memory.
        """
        try:
            return list(self._engine.run(jobs))
        except Exception as error:
            typed = self._engine.typed(error)
            if isinstance(typed, DeviceLost):
                raise typed from error
            if len(jobs) == 1:
                return [Failure.from_error(typed)]
        middle = len(jobs) // 2
        return self._score_isolated(jobs[:middle]) + self._score_isolated(jobs[middle:])


class FakeScorer:
    """Stands in for a model: it draws scores from a hash of image and prompt, so the same pair always scores the same.

    Lets a generator team test its integration, and a load test its queue, without a GPU.
    """

    def __init__(self, *, batch_time_s: float = 0.0) -> None:
        self.batch_time_s = batch_time_s
        self.aspects = tuple(Aspect)
        self.cutter = None
        self.info = ModelInfo(
            profile="fake",
            base="none",
            adapters={},
            heads={},
            revisions={},
            dtype="none",
            engine="fake",
            trained=False,
        )

    def prepare(self, job: Job) -> Job:
        return job

    def score(self, jobs: Sequence[Job]) -> list[Scores | Failure]:
        time.sleep(self.batch_time_s)
        return [self._score_one(job) for job in jobs]

    def _score_one(self, job: Job) -> Scores:
        def aspect_score(aspect: Aspect) -> AspectScore:
            digest = hashlib.sha256(f"{job.image.info.sha256}\n{job.prompt}\n{aspect}".encode()).digest()
            score = 5 * int.from_bytes(digest[:4]) / 2**32
            return AspectScore(
                score=score,
                rating=Rating.from_score(score),
                description=f"No model looked at this image; {aspect} is a number drawn from its hash.",
                slices=0,
                cut_tokens=0,
            )

        return Scores({aspect: aspect_score(aspect) for aspect in job.aspects or self.aspects})


def load_scorer(
    model: ModelProfile | str, device: str = "auto", *, max_batch: int = 8, progress: Progress = unseen
) -> Scoring:
    """The scorer for a profile, its name or path; "fake", or "fake:0.5" for one that takes half a second a batch.

    Raises:
        ConfigError, CheckpointError: as `Scorer.load`.
    """
    if isinstance(model, str) and (match := re.fullmatch(r"fake(:(?P<seconds>\d+(\.\d+)?))?", model)):
        return FakeScorer(batch_time_s=float(match["seconds"] or 0))
    return Scorer.load(model, device, max_batch=max_batch, progress=progress)
