"""What a batch is made of: a row for every image and aspect, each with an outcome of its own."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from m3agiqa.contract import Aspect, AspectScore, Failure, Rating
from m3agiqa.engine.encoding import Encoded
from m3agiqa.errors import M3AGIQAError, ScoreNotFinite
from m3agiqa.model.slicing import Grid
from m3agiqa.model.tokens import Conversation
from m3agiqa.profile import AspectProfile


@dataclass
class Row:
    """One image's way through one aspect."""

    job: int
    aspect: Aspect
    image: Encoded
    profile: AspectProfile
    analysis: str
    #: The description, if the model is not to write one.
    given: str | None = None
    #: What was read before the description, and how the image was cut for it.
    prompt: Conversation | None = None
    grid: Grid | None = None
    description: str = ""
    #: Tokens the description was written in.
    generated: int = 0
    reading: Reading | None = None
    score: AspectScore | None = None
    failure: Failure | None = None


@dataclass(frozen=True)
class Reading:
    """What of a scoring conversation is read: the ids the context holds, of which `known` were read before."""

    grid: Grid
    conversation: Conversation
    ids: list[int]
    known: int

    @property
    def cut_tokens(self) -> int:
        return len(self.conversation.ids) - len(self.ids)


def aspect_score(row: Row, raw: float) -> AspectScore:
    """The score of a row whose conversation was read.

    Raises:
        ScoreNotFinite: it is no number.
    """
    reading = row.reading
    assert reading is not None
    if not math.isfinite(raw):
        raise ScoreNotFinite(f"{row.aspect}: the head returned {raw}; check the checkpoint and the dtype")
    score = min(max(raw, 0.0), 5.0)
    return AspectScore(
        score=score,
        rating=Rating.from_score(score),
        description=row.description,
        slices=reading.grid.slices,
        cut_tokens=reading.cut_tokens,
    )


def alive(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row.failure is None]


@contextmanager
def failing_alone(row: Row) -> Iterator[None]:
    """A typed failure of one row stays that row's."""
    try:
        yield
    except M3AGIQAError as error:
        row.failure = Failure.from_error(error)
