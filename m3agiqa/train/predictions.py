"""Scores of a data set's pictures beside the human ones, as rows of a CSV file that a killed run continues."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from m3agiqa.contract import Aspect, AspectScore, Failure, ModelInfo, Rating, describe_validation
from m3agiqa.errors import M3AGIQAError, RequestInvalid
from m3agiqa.files import read_job
from m3agiqa.jobs import Job, Scores
from m3agiqa.outputs import write
from m3agiqa.scorer import Scoring
from m3agiqa.train.data import DataSet, Entry


class Prediction(BaseModel):
    """One picture and aspect; either a score or an error."""

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

    @field_validator("group", "label", "description", "score", "rating", "error", mode="before")
    @classmethod
    def _nothing(cls, value: object) -> object:
        return None if value == "" else value

    @classmethod
    def of(cls, asked: Asked, entry: Entry, outcome: AspectScore | Failure, model: str) -> Self:
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
        )


class Asked(BaseModel):
    """What is asked of every picture."""

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
            Prediction.of(asked, entry, _of(next(outcomes) if isinstance(job, Job) else job, asked.aspect), model)
            for entry, job in zip(batch, jobs, strict=True)
        ]


def model_name(info: ModelInfo) -> str:
    digest = hashlib.sha256(info.model_dump_json().encode()).hexdigest()[:12]
    return f"{info.profile}@{digest}"


def _job(data: DataSet, entry: Entry, aspect: Aspect) -> Job | Failure:
    try:
        return read_job(data.picture(entry.name), entry.prompt, (aspect,))
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

    def resume(self, model: str, asked: Asked, entries: Iterable[Entry]) -> list[Prediction]:
        """Scored rows of an earlier run; rows with an error, and one that was cut off, are dropped to be tried again.

        Those of `entries` get the group and label that are asked for now.

        Raises:
            RequestInvalid: the file is another's: no predictions, or another model's or aspect's.
        """
        kept: list[Prediction] = []
        if self.path.exists():
            kept = [row for row in read_predictions(self.path, cut_off=True) if row.error is None]
            if other := next((row for row in kept if (row.model, row.aspect) != (model, asked.aspect)), None):
                raise RequestInvalid(
                    f"{self.path} holds {other.aspect} by {other.model}, not {asked.aspect} by {model}; "
                    "name another file"
                )
        now = {(entry.name, entry.prompt): asked.of(entry) for entry in entries}
        kept = [row.model_copy(update=now.get((row.name, row.prompt), {})) for row in kept]
        header = io.StringIO(newline="")
        csv.writer(header).writerow(COLUMNS)
        write(self.path, header.getvalue() + _as_csv(kept))
        return kept

    def append(self, rows: Iterable[Prediction]) -> None:
        with self.path.open("a", encoding="utf-8", newline="") as file:
            file.write(_as_csv(rows))


def read_predictions(path: Path, *, cut_off: bool = False) -> list[Prediction]:
    """Read what `predict` wrote.

    Args:
        path: the CSV file.
        cut_off: the last row may be half a row, which is dropped.

    Raises:
        RequestInvalid: unreadable, or no predictions; says which row.
    """
    try:
        text = path.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise RequestInvalid(f"{path} cannot be read ({type(error).__name__})") from error
    reader = csv.DictReader(io.StringIO(text, newline=""))
    if tuple(reader.fieldnames or ()) != COLUMNS:
        raise RequestInvalid(f"{path} was not written by `m3agiqa predict`: its first line is not {','.join(COLUMNS)}")
    rows = list(reader)
    if cut_off and rows and (None in rows[-1].values() or not text.endswith("\n")):
        rows.pop()
    predictions = []
    for number, row in enumerate(rows, 1):
        try:
            predictions.append(Prediction.model_validate(row))
        except ValidationError as error:
            raise RequestInvalid(f"{path}, row {number}: {describe_validation(error)}") from None
    return predictions


def _as_csv(rows: Iterable[Prediction]) -> str:
    text = io.StringIO(newline="")
    csv.DictWriter(text, COLUMNS).writerows(row.model_dump(mode="json") for row in rows)
    return text.getvalue()
