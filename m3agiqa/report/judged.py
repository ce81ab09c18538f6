"""An image with what was said of it, from whatever wrote that down: a worker, `m3agiqa score` or `m3agiqa batch`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from m3agiqa import jsonl
from m3agiqa.batch import Record
from m3agiqa.contract import Aspect, AspectScore, Decision, Failure, ModelInfo, PolicyRef, Verdict, describe_validation
from m3agiqa.errors import DataError
from m3agiqa.records import versioned


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

    Raises:
        DataError: the file is unreadable, or something in it is neither; says where.
    """
    located = jsonl.read(path)
    if located and "image_path" in located[0][1]:
        yield from from_records(_parsed(Record, where, item) for where, item in located)
    else:
        for where, item in located:
            yield from_verdict(_parsed(Verdict, where, item))


def from_verdict(verdict: Verdict, *, image: str | None = None, prompt: str | None = None) -> Judged:
    """What a verdict says; `image` and `prompt` are those of its request, where they are known."""
    return Judged(
        id=verdict.request_id,
        decision=verdict.decision,
        reasons=verdict.reasons,
        scores=verdict.aspects,
        failure=verdict.error,
        policy=_policy(verdict.policy),
        model=_model(verdict.model),
        image=image,
        prompt=prompt,
        image_sha256=verdict.image.sha256 if verdict.image else None,
        scored_at=verdict.scored_at,
        verdict=verdict,
    )


def from_records(records: Iterable[Record]) -> Iterator[Judged]:
    """What the rows of `m3agiqa batch` say; those of one image stand together."""
    for _, rows in groupby(records, key=lambda record: (record.image_path, record.prompt)):
        yield from _images(list(rows))


def _images(rows: list[Record]) -> Iterator[Judged]:
    """A row for each aspect makes an image; a table may name the same image and prompt several times in a row."""
    size = len(rows[0].aspects)
    for start in range(0, len(rows), size):
        yield _image(rows[start : start + size])


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


def _policy(policy: PolicyRef | None) -> str:
    return f"{policy.name}@{policy.digest or policy.version}" if policy else ""


def _model(model: ModelInfo | None) -> str:
    return versioned(model.profile, model) if model else ""


def _parsed(kind: type[Any], where: str, item: dict[str, Any]) -> Any:
    try:
        return kind.model_validate(item)
    except ValidationError as error:
        raise DataError(
            f"{where}: neither a verdict nor a row of `m3agiqa batch`: {describe_validation(error)}"
        ) from None
