"""Scores of a data set's images beside the human ones, as rows of a CSV file that a killed run continues."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, field_validator

from m3agiqa.contract import Aspect, AspectScore, Failure, ModelInfo, Rating
from m3agiqa.errors import M3AGIQAError, OutputError
from m3agiqa.files import image_digest, read_job
from m3agiqa.jobs import Job, Scores
from m3agiqa.pools import threads
from m3agiqa.records import RecordFile, versioned
from m3agiqa.scorer import Scoring
from m3agiqa.train.data.dataset import DataSet, Entry

#: Threads that read images.
_THREADS = 8


class Prediction(BaseModel):
    """One image and aspect; either a score or an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    prompt: str
    aspect: Aspect
    group: str | None
    #: The human score on the scale 0 to 5, None where the table has none.
    label: float | None
    description: str | None
    score: float | None
    rating: Rating | None
    error: str | None
    #: Profile and a digest of what it was loaded from.
    model: str
    #: Digest of the image's file; None in files of earlier versions, and where it could not be opened.
    image_sha256: str | None = None

    @field_validator("group", "label", "description", "score", "rating", "error", "image_sha256", mode="before")
    @classmethod
    def _nothing(cls, value: object) -> object:
        return None if value == "" else value

    @classmethod
    def of(cls, asked: Asked, entry: Entry, job: Job | Failure, outcome: AspectScore | Failure, model: str) -> Self:
        scored = outcome if isinstance(outcome, AspectScore) else None
        return cls(
            name=entry.name,
            prompt=entry.prompt,
            aspect=asked.aspect,
            **asked.of(entry),
            description=scored.description if scored else None,
            score=scored.score if scored else None,
            rating=scored.rating if scored else None,
            error=None if scored or isinstance(outcome, AspectScore) else f"{outcome.code}: {outcome.message}",
            model=model,
            image_sha256=job.image.info.sha256 if isinstance(job, Job) else None,
        )


class Asked(BaseModel):
    """What is asked of every image."""

    model_config = ConfigDict(frozen=True)

    aspect: Aspect
    #: Column of the human scores, and what they are multiplied with.
    label: str
    label_scale: float = 1.0
    #: Column, or `prefix`; None for no groups.
    group: str | None = None

    def of(self, entry: Entry) -> dict[str, Any]:
        """An entry's group and label, as a prediction has them."""
        return {
            "group": None if self.group is None else entry.group(self.group),
            "label": entry.label(self.label, self.label_scale),
        }


COLUMNS = tuple(Prediction.model_fields)


def predict(
    data: DataSet, asked: Asked, scorer: Scoring, entries: Sequence[Entry], batch_size: int
) -> Iterator[list[Prediction]]:
    """Score entries, batch by batch in order; a row that fails has its error and no score."""
    model = model_name(scorer.info)
    for start in range(0, len(entries), batch_size):
        batch = entries[start : start + batch_size]
        jobs = [_job(data, entry, asked.aspect) for entry in batch]
        outcomes = iter(scorer.score([job for job in jobs if isinstance(job, Job)]))
        yield [
            Prediction.of(asked, entry, job, _of(next(outcomes) if isinstance(job, Job) else job, asked.aspect), model)
            for entry, job in zip(batch, jobs, strict=True)
        ]


def model_name(info: ModelInfo) -> str:
    return versioned(info.profile, info)


def _job(data: DataSet, entry: Entry, aspect: Aspect) -> Job | Failure:
    try:
        return read_job(data.image(entry.name), entry.prompt, (aspect,))
    except M3AGIQAError as error:
        return Failure.of(error)


def _of(outcome: Scores | Failure, aspect: Aspect) -> AspectScore | Failure:
    if isinstance(outcome, Failure):
        return outcome
    return outcome.aspects[aspect] if aspect in outcome.aspects else outcome.failures[aspect]


class PredictionFile:
    """A CSV file of predictions that grows batch by batch."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = RecordFile(path, Prediction, "m3agiqa predict")

    def resume(self, model: str, asked: Asked, data: DataSet) -> list[Prediction]:
        """Scored rows of an earlier run; rows with an error, and one that was cut off, are left out, to be tried again.

        Those of `data` get the group and label that are asked for now.

        Raises:
            OutputError: the file is another's: no predictions, or another model's, aspect's or image's.
        """
        kept = [row for row in self._file.left() if row.error is None]
        if other := next((row for row in kept if (row.model, row.aspect) != (model, asked.aspect)), None):
            raise OutputError(
                f"{self.path} holds {other.aspect} by {other.model}, not {asked.aspect} by {model}; name another file"
            )
        now = {(entry.name, entry.prompt): asked.of(entry) for entry in data.entries}
        mine = [row for row in kept if row.image_sha256 and (row.name, row.prompt) in now]
        with threads(_THREADS) as pool:
            digests = pool.map(lambda row: image_digest(data.image(row.name)), mine)
            for row, digest in zip(mine, digests, strict=True):
                if digest not in (row.image_sha256, None):
                    raise OutputError(f"{self.path} holds a score of another {row.name}; name another file")
        return [row.model_copy(update=now.get((row.name, row.prompt), {})) for row in kept]

    def growing(self, kept: Iterable[Prediction]) -> AbstractContextManager[Callable[[Iterable[Prediction]], None]]:
        """Write what is kept, and hand out what appends to it."""
        return self._file.growing(kept)


def read_predictions(path: Path) -> list[Prediction]:
    """Read what `predict` wrote.

    Raises:
        DataError: unreadable, or no predictions; says which line.
    """
    return RecordFile(path, Prediction, "m3agiqa predict").read()
