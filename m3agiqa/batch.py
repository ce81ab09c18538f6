"""Scores the images that a table names, row by row, into a file that a later run continues."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict, field_validator

from m3agiqa.contract import Aspect, AspectScore, Decision, Failure, Rating
from m3agiqa.errors import M3AGIQAError, OutputError, RequestInvalid
from m3agiqa.paths import is_file
from m3agiqa.quoting import PATH_CHARS, quoted
from m3agiqa.records import LIST_SEPARATOR, versioned
from m3agiqa.tables import Row

if TYPE_CHECKING:
    from m3agiqa.jobs import Job, Scores
    from m3agiqa.policy import Policy
    from m3agiqa.scorer import Scoring

IMAGE_PATH, PROMPT = COLUMNS = ("image_path", "prompt")

#: Advice where the output file holds another run.
_OTHER = "name another --output, or remove the file to begin anew"


class Record(BaseModel):
    """The row of one image and aspect; it has either a score or an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image_path: str
    prompt: str
    aspect: Aspect
    description: str | None
    score: float | None
    rating: Rating | None
    error: str | None
    #: The policy's decision about the image, by all its scores, and every reason against "accept".
    decision: Decision
    reasons: tuple[str, ...]
    #: A run that continues this one must have the same aspects, model and policy; the last two have a digest.
    aspects: tuple[Aspect, ...]
    model: str
    policy: str
    #: Digest of the image's file; None where it could not be opened.
    image_sha256: str | None

    @classmethod
    def of_aspect(cls, aspect: Aspect, scored: AspectScore | None, failure: Failure | None, **image: Any) -> Self:
        """The row of an aspect with its score or its failure; `image` are the fields that its image's rows share."""
        return cls(
            aspect=aspect,
            description=scored.description if scored else None,
            score=scored.score if scored else None,
            rating=scored.rating if scored else None,
            error=f"{failure.code}: {failure.message}" if failure else None,
            **image,
        )

    @field_validator("description", "score", "rating", "error", "image_sha256", mode="before")
    @classmethod
    def _nothing(cls, value: object) -> object:
        return None if value == "" else value

    @field_validator("reasons", "aspects", mode="before")
    @classmethod
    def _list(cls, value: object) -> object:
        return [item for item in value.split(LIST_SEPARATOR) if item] if isinstance(value, str) else value


@dataclass(frozen=True)
class Batch:
    """Scores rows with one scorer, for the same aspects, under one policy."""

    #: Folder of the table.
    folder: Path
    scorer: Scoring
    aspects: tuple[Aspect, ...]
    policy: Policy

    def score(self, rows: Sequence[Row]) -> list[list[Record]]:
        """The records of each row; those of a row that fails have its error, and no score."""
        from m3agiqa.jobs import Job

        jobs = [self._job(row) for row in rows]
        asked = [job for job in jobs if isinstance(job, Job)]
        outcomes = iter([self._guarded(*scored) for scored in zip(asked, self.scorer.score(asked), strict=True)])
        return [
            self._records(row, job, next(outcomes) if isinstance(job, Job) else job)
            for row, job in zip(rows, jobs, strict=True)
        ]

    def check_continues(self, known: Sequence[Record], path: Path) -> None:
        """Raises: OutputError: the earlier run that wrote `known` had other aspects, model or policy; says which."""
        for name, value in self._identity.items():
            if other := next((then for record in known if (then := getattr(record, name)) != value), None):
                raise OutputError(f"{path} has the {name} {_shown(other)}, not {_shown(value)}; {_OTHER}")

    @property
    def _identity(self) -> dict[str, str | tuple[Aspect, ...]]:
        return {
            "aspects": self.aspects,
            "model": versioned(self.scorer.info.profile, self.scorer.info),
            "policy": self.policy.ref.label,
        }

    def _job(self, row: Row) -> Job | Failure:
        from m3agiqa.files import find_image, read_job

        try:
            if row.error is not None:
                raise RequestInvalid(f"line {row.line}: {row.error}")
            return read_job(find_image(row.values[IMAGE_PATH], self.folder), row.values[PROMPT], self.aspects)
        except M3AGIQAError as error:
            return Failure.from_error(error)

    def _guarded(self, job: Job, outcome: Scores | Failure) -> Scores | Failure:
        from m3agiqa.guard import guarded

        return guarded(job, outcome, self.aspects, self.policy, lambda job: self.scorer.score([job])[0])

    def _records(self, row: Row, job: Job | Failure, outcome: Scores | Failure) -> list[Record]:
        scores: Mapping[Aspect, AspectScore] = {}
        failures: Mapping[Aspect, Failure]
        if isinstance(outcome, Failure):
            failures = dict.fromkeys(self.aspects, outcome)
            decision, reasons = self.policy.decide(scores, self.aspects, outcome)
        else:
            scores, failures = outcome.aspects, outcome.failures
            decision, reasons = self.policy.decide(scores, self.aspects, neutral=outcome.neutral)
        identity = self._identity
        records = []
        for aspect in self.aspects:
            records.append(
                Record.of_aspect(
                    aspect,
                    scores.get(aspect),
                    failures.get(aspect),
                    image_path=row.values.get(IMAGE_PATH, ""),
                    prompt=row.values.get(PROMPT, ""),
                    decision=decision,
                    reasons=reasons,
                    **identity,
                    image_sha256=None if isinstance(job, Failure) else job.image.info.sha256,
                )
            )
        return records


def images(rows: Sequence[Row], folder: Path) -> list[Path]:
    """The image files that a table in `folder` names; leaves out names that lead to no file."""
    from m3agiqa.files import find_image

    names = {row.values[IMAGE_PATH] for row in rows if row.values.get(IMAGE_PATH)}
    return [path for name in sorted(names) if is_file(path := find_image(name, folder))]


def known_rows(left: Sequence[Record], rows: Sequence[Row], path: Path, folder: Path) -> dict[int, list[Record]]:
    """The records of an earlier run, by the number of their row; rows that failed or are not complete are left out.

    Args:
        left: records that the earlier run wrote.
        rows: rows of the table.
        path: file that has the records.
        folder: folder of the table.

    Raises:
        OutputError: the earlier run had other images or prompts.
    """
    from m3agiqa.files import find_image, image_digest

    waiting: dict[tuple[str, str], dict[Aspect, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for record in left:
        if record.error is None:
            waiting[record.image_path, record.prompt][record.aspect].append(record)
    wanted = [(row.values.get(IMAGE_PATH, ""), row.values.get(PROMPT, "")) for row in rows]
    if others := waiting.keys() - set(wanted):
        image_path = min(others)[0]
        differs = "another prompt" if image_path in {name for name, _ in wanted} else "no row"
        raise OutputError(f"{path} has a score of {quoted(image_path, PATH_CHARS)}, with {differs} now; {_OTHER}")
    known: dict[int, list[Record]] = {}
    for number, key in enumerate(wanted):
        found = waiting.get(key, {})
        if found and all(found.get(aspect) for aspect in left[0].aspects):
            known[number] = [found[aspect].pop() for aspect in left[0].aspects]
    for first, *_ in known.values():
        if image_digest(find_image(first.image_path, folder)) not in (first.image_sha256, None):
            raise OutputError(f"{path} has a score of another {quoted(first.image_path, PATH_CHARS)}; {_OTHER}")
    return known


def _shown(value: object) -> str:
    return LIST_SEPARATOR.join(value) if isinstance(value, tuple) else str(value)
