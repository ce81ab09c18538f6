"""The one door to the model: pictures with their prompts in, scores or typed failures out, in order.

Importing this module does not import torch; `Scorer.load` does.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from m3agiqa.contract import Aspect, AspectScore, Failure, ModelInfo, Rating
from m3agiqa.images import Picture


@dataclass(frozen=True)
class Job:
    """One picture to score; `aspects` None asks for all the scorer has."""

    picture: Picture
    prompt: str
    aspects: tuple[Aspect, ...] | None = None


@dataclass(frozen=True)
class Scores:
    """What became of one picture: every aspect asked for is in exactly one of the two."""

    aspects: Mapping[Aspect, AspectScore]
    failures: Mapping[Aspect, Failure] = field(default_factory=dict)
    #: Milliseconds of the batch this picture was in, by stage.
    timings_ms: Mapping[str, float] = field(default_factory=dict)


class Scoring(Protocol):
    """What the worker and the command line need of a scorer."""

    info: ModelInfo
    aspects: tuple[Aspect, ...]

    def score(self, jobs: Sequence[Job]) -> list[Scores | Failure]:
        """Score a batch; the result has the length and order of `jobs`. Never raises for one bad picture."""
        ...


class FakeScorer:
    """Stands in for a model: scores drawn from a hash of picture and prompt, so the same pair always gets the same.

    Lets a generator team test its integration, and a load test its queue, without a GPU.
    """

    def __init__(self, *, batch_time_s: float = 0.0) -> None:
        self.batch_time_s = batch_time_s
        self.aspects = tuple(Aspect)
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

    def score(self, jobs: Sequence[Job]) -> list[Scores | Failure]:
        time.sleep(self.batch_time_s)
        return [self._score_one(job) for job in jobs]

    def _score_one(self, job: Job) -> Scores:
        def aspect_score(aspect: Aspect) -> AspectScore:
            digest = hashlib.sha256(f"{job.picture.info.sha256}\n{job.prompt}\n{aspect}".encode()).digest()
            score = 5 * int.from_bytes(digest[:4]) / 2**32
            return AspectScore(
                score=score,
                rating=Rating.of(score),
                description=f"No model looked at this picture; {aspect} is a number drawn from its hash.",
                slices=0,
                cut_tokens=0,
            )

        return Scores({aspect: aspect_score(aspect) for aspect in job.aspects or self.aspects})
