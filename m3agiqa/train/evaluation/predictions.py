"""Predictions: scores of a data set's images beside the human ones, in a CSV file that a killed run continues."""

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
    """The row of one image and aspect; it has either a score or an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    prompt: str
    aspect: Aspect
    group: str | None
    #: Human score, 0 to 5; None where the table has none.
    label: float | None
    description: str | None
    score: float | None
    rating: Rating | None
    error: str | None
    #: The profile, with a digest of what it was loaded from.
    model: str
    #: Digest of the image's file; None where it could not be opened, and in files of earlier versions.
    image_sha256: str | None = None

    @field_validator("group", "label", "description", "score", "rating", "error", "image_sha256", mode="before")
    @classmethod
    def _nothing(cls, value: object) -> object:
        return None if value == "" else value

    @classmethod
    def from_outcome(
        cls, task: PredictionTask, entry: Entry, job: Job | Failure, outcome: AspectScore | Failure, model: str
    ) -> Self:
        scored = outcome if isinstance(outcome, AspectScore) else None
        return cls(
            name=entry.name,
            prompt=entry.prompt,
            aspect=task.aspect,
            **task.columns(entry),
            description=scored.description if scored else None,
            score=scored.score if scored else None,
            rating=scored.rating if scored else None,
            error=None if scored or isinstance(outcome, AspectScore) else f"{outcome.code}: {outcome.message}",
            model=model,
            image_sha256=job.image.info.sha256 if isinstance(job, Job) else None,
        )


class PredictionTask(BaseModel):
    """What is predicted of every image, and held against which human scores."""

    model_config = ConfigDict(frozen=True)

    aspect: Aspect
    #: Column of the human scores.
    label: str
    #: Factor of the human scores.
    label_scale: float = 1.0
    #: Column of the groups, or `prefix`; None for no groups.
    group: str | None = None

    def columns(self, entry: Entry) -> dict[str, Any]:
        """The group and label of an entry's prediction."""
        return {
            "group": None if self.group is None else entry.group(self.group),
            "label": entry.label(self.label, self.label_scale),
        }


COLUMNS = tuple(Prediction.model_fields)


def predict(
    data: DataSet, task: PredictionTask, scorer: Scoring, entries: Sequence[Entry], batch_size: int
) -> Iterator[list[Prediction]]:
    """Score entries in order, and yield the rows of each batch; a row that fails has an error and no score."""
    model = model_name(scorer.info)
    for start in range(0, len(entries), batch_size):
        batch = entries[start : start + batch_size]
        jobs = [_job(data, entry, task.aspect) for entry in batch]
        outcomes = iter(scorer.score([job for job in jobs if isinstance(job, Job)]))
        yield [
            Prediction.from_outcome(
                task, entry, job, _for_aspect(next(outcomes) if isinstance(job, Job) else job, task.aspect), model
            )
            for entry, job in zip(batch, jobs, strict=True)
        ]


def model_name(info: ModelInfo) -> str:
    return versioned(info.profile, info)


def _job(data: DataSet, entry: Entry, aspect: Aspect) -> Job | Failure:
    try:
        return read_job(data.image(entry.name), entry.prompt, (aspect,))
    except M3AGIQAError as error:
        return Failure.from_error(error)


def _for_aspect(outcome: Scores | Failure, aspect: Aspect) -> AspectScore | Failure:
    if isinstance(outcome, Failure):
        return outcome
    return outcome.aspects[aspect] if aspect in outcome.aspects else outcome.failures[aspect]


class PredictionFile:
    """A CSV file of predictions that grows batch by batch."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = RecordFile(path, Prediction, "m3agiqa predict")

    def resume(self, model: str, task: PredictionTask, data: DataSet) -> list[Prediction]:
        """Read the scored rows of an earlier run, with this task's groups and labels. Rows that failed or were cut
        off are left out, to be scored again.

        Raises:
            DataError: the file holds no predictions.
            OutputError: it holds those of another model, aspect or image.
        """
        kept = [row for row in self._file.left() if row.error is None]
        if other := next((row for row in kept if (row.model, row.aspect) != (model, task.aspect)), None):
            raise OutputError(
                f"{self.path} holds {other.aspect} by {other.model}, not {task.aspect} by {model}; name another file"
            )
        now = {(entry.name, entry.prompt): task.columns(entry) for entry in data.entries}
        mine = [row for row in kept if row.image_sha256 and (row.name, row.prompt) in now]
        with threads(_THREADS) as pool:
            digests = pool.map(lambda row: image_digest(data.image(row.name)), mine)
            for row, digest in zip(mine, digests, strict=True):
                if digest not in (row.image_sha256, None):
                    raise OutputError(f"{self.path} holds a score of another {row.name}; name another file")
        return [row.model_copy(update=now.get((row.name, row.prompt), {})) for row in kept]

    def growing(self, kept: Iterable[Prediction]) -> AbstractContextManager[Callable[[Iterable[Prediction]], None]]:
        """Write the rows that are kept, and give a function that appends more."""
        return self._file.growing(kept)


def read_predictions(path: Path) -> list[Prediction]:
    """Read a file of predictions.

    Raises:
        DataError: it is unreadable, or holds something else; says which line.
    """
    return RecordFile(path, Prediction, "m3agiqa predict").read()
