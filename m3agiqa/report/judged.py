"""An image with what was said of it, from whatever wrote that down: a worker, `m3agiqa score` or `m3agiqa batch`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from m3agiqa import jsonl
from m3agiqa.batch import Record
from m3agiqa.contract import Aspect, AspectScore, Decision, Failure, ModelInfo, Verdict, describe_validation
from m3agiqa.deciding import asked_for
from m3agiqa.errors import DataError
from m3agiqa.records import versioned

_Parsed = TypeVar("_Parsed", bound=BaseModel)


@dataclass(frozen=True)
class Judged:
    """An image, its scores, and the decision about it."""

    #: Request id; in `batch` output, the image's path. Not always unique.
    id: str
    decision: Decision
    #: Every reason against "accept".
    reasons: tuple[str, ...]
    #: Scores by aspect, on the MOS scale 0..5; aspects that failed are missing.
    scores: Mapping[Aspect, AspectScore]
    #: The decision that held before, where a verdict was decided anew, or that another set of verdicts says.
    before: Decision | None = None
    #: Aspects that were asked for, as far as the source tells.
    asked: tuple[Aspect, ...] = ()
    #: Why the image, or an aspect of it, has no score.
    failure: Failure | None = None
    #: `NAME@DIGEST` of the policy and of the model; empty where the source does not tell.
    policy: str = ""
    model: str = ""
    #: A URL or a path; None where the source does not tell.
    image: str | None = None
    prompt: str | None = None
    #: SHA-256 of the image's bytes.
    image_sha256: str | None = None
    scored_at: datetime | None = None
    #: The verdict itself, where the source has it.
    verdict: Verdict | None = None


def read(path: Path) -> Iterator[Judged]:
    """Every image of a file of verdicts (JSONL or a JSON list), or of the JSON that `m3agiqa batch` wrote.

    Lines are read as they are asked for, so that a file may be larger than memory; a list is read whole.

    Raises:
        DataError: the file is unreadable, or something in it is neither; says where.
    """
    located = jsonl.stream(path)
    first = list(islice(located, 1))
    located = chain(first, located)
    if first and "image_path" in first[0][1]:
        yield from _from_rows((where, _parsed(Record, where, item)) for where, item in located)
    else:
        for where, item in located:
            yield from_verdict(_parsed(Verdict, where, item))


def from_verdict(verdict: Verdict, *, image: str | None = None, prompt: str | None = None) -> Judged:
    """What a verdict says; `image` and `prompt` are those of its request, where they are known otherwise."""
    asked = verdict.request
    return Judged(
        id=verdict.name,
        decision=verdict.decision,
        reasons=verdict.reasons,
        scores=verdict.aspects,
        before=verdict.redecided.decision if verdict.redecided else None,
        asked=asked_for(verdict),
        failure=verdict.error,
        policy=verdict.policy.label if verdict.policy else "",
        model=_model(verdict.model),
        image=image if image is not None or asked is None else asked.image_url,
        prompt=prompt if prompt is not None or asked is None else asked.prompt,
        image_sha256=verdict.image.sha256 if verdict.image else None,
        scored_at=verdict.scored_at,
        verdict=verdict,
    )


def from_records(records: Iterable[Record]) -> Iterator[Judged]:
    """What the rows of `m3agiqa batch` say; those of one image stand together."""
    return _from_rows(("a row", record) for record in records)


def _from_rows(located: Iterable[tuple[str, Record]]) -> Iterator[Judged]:
    for _, rows in groupby(located, key=lambda item: (item[1].image_path, item[1].prompt)):
        yield from _images(list(rows))


def _images(rows: list[tuple[str, Record]]) -> Iterator[Judged]:
    """A row for each aspect makes an image; a table may name the same image and prompt several times in a row."""
    size = max(1, len(rows[0][1].aspects))
    for start in range(0, len(rows), size):
        where = rows[start][0]
        try:
            yield _image([record for _, record in rows[start : start + size]])
        except ValidationError as error:  # a score that is none
            raise DataError(f"{where}: {describe_validation(error)}") from None


def _image(rows: list[Record]) -> Judged:
    first = rows[0]
    error = next((row.error for row in rows if row.error is not None), None)
    return Judged(
        id=first.image_path,
        decision=first.decision,
        reasons=first.reasons,
        scores={
            row.aspect: AspectScore(
                score=row.score, rating=row.rating, description=row.description or "", slices=0, cut_tokens=0
            )
            for row in rows
            if row.score is not None and row.rating is not None
        },
        asked=first.aspects,
        failure=None if error is None else _failure(error),
        policy=first.policy,
        model=first.model,
        image=first.image_path,
        prompt=first.prompt,
        image_sha256=first.image_sha256,
    )


def _failure(error: str) -> Failure:
    code, _, message = error.partition(": ")
    return Failure(code=code, message=message, retryable=False)


def _model(model: ModelInfo | None) -> str:
    return versioned(model.profile, model) if model else ""


def _parsed(kind: type[_Parsed], where: str, item: dict[str, Any]) -> _Parsed:
    try:
        return kind.model_validate(item)
    except ValidationError as error:
        raise DataError(
            f"{where}: neither a verdict nor a row of `m3agiqa batch`: {describe_validation(error)}"
        ) from None
