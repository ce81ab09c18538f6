"""Labels that a person gave to images: `labels.csv`, as the report's page exports it or as written by hand."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np

from m3agiqa.errors import DataError
from m3agiqa.inputs import read_bytes
from m3agiqa.quoting import PATH_CHARS, quoted
from m3agiqa.report.calibration import Rule, Sample
from m3agiqa.report.judged import Judged
from m3agiqa.tables import Row, Table, open_table

#: How the page marks an image that a person chose, and not a sampling rule.
FREE = "free"
#: Names of the column that says which image is labelled; the first that a table has counts.
_NAMES = ("id", "request_id", "image_path")


class Choice(StrEnum):
    """How the images that are labelled came to be chosen, in the words of an evidence."""

    COMPLETE = "every scored image is labelled"
    ASSUMED = "taken for a simple random sample of the scored images, as the file does not say how they were chosen"
    EVEN = "a random sample in which every scored image had the same chance"
    UNEVEN = "a random sample of known, unequal chances"


@dataclass(frozen=True)
class Label:
    """What a person said of one image."""

    id: str
    #: None where the person skipped the image.
    is_good: bool | None
    #: SHA-256 of the image's bytes, where the file has it.
    image_sha256: str | None = None
    #: Chance with which a sampling rule chose the image; None where no rule did.
    chance: float | None = None


@dataclass(frozen=True)
class Labels:
    """The labels of a file, by the image's id."""

    by_id: Mapping[str, Label]
    #: Whether the file tells of chances, or of how images were chosen.
    tells_choice: bool
    sha256: str


@dataclass(frozen=True)
class Joined:
    """Labels beside the scores of their images."""

    sample: Sample
    choice: Choice
    #: Images with the scores that the rule takes, labelled or not.
    scored: int
    skipped: int
    #: Labels without use, by the reason, in words.
    unused: Mapping[str, int]


def read_labels(path: Path) -> Labels:
    """Read a file of labels: the columns `id` (or `image_path`) and `label` (accept, reject or skip), and perhaps
    `image_sha256`, `chosen` and `chance`; others are ignored.

    Raises:
        DataError: it is unreadable, a cell is wrong, or an image has two labels that differ; says which line.
    """
    with open_table(path, ("label",)) as table:
        name = next((name for name in _NAMES if name in table.columns), None)
        if name is None:
            raise DataError(f"{table} must have a column {' or '.join(_NAMES)}; {table.read_as()}")
        tells_choice = bool({"chosen", "chance"} & {*table.columns})
        found: dict[str, Label] = {}
        for row in table:
            label = _label(table, row, name)
            if found.setdefault(label.id, label).is_good != label.is_good:
                raise DataError(f"{table}, line {row.line}: a second label of {quoted(label.id, PATH_CHARS)} differs")
    return Labels(found, tells_choice, hashlib.sha256(read_bytes(path)).hexdigest())


def join(labels: Labels, images: Sequence[Judged], rule: Rule) -> Joined:
    """Put labels beside the positions of their images.

    Raises:
        DataError: no image of the rule's aspects is scored, no label has a score, an id means several images or another
            image, or the labels are no sample from which others can be told.
    """
    placed = [(image, place) for image in images if (place := rule.position(image.scores)) is not None]
    if not placed:
        raise DataError(f"no image has scores of {' and '.join(rule.proportions)}")
    positions = _positions(placed, labels)
    used = [label for label in labels.by_id.values() if label.id in positions]
    if not used:
        raise DataError(f"none of the {len(labels.by_id)} labels is of an image with scores")
    choice, chosen = _choice(labels, used, len(placed))
    told = [label for label in chosen if label.is_good is not None]
    sample = Sample(
        positions=np.asarray([positions[label.id] for label in told], dtype=np.float64),
        is_good=np.asarray([label.is_good for label in told], dtype=np.bool_),
        chances=np.asarray([label.chance if choice is Choice.UNEVEN else 1.0 for label in told], dtype=np.float64),
    )
    unused = {"of images without scores": len(labels.by_id) - len(used), "chosen freely": len(used) - len(chosen)}
    return Joined(
        sample, choice, len(placed), len(chosen) - len(told), {why: count for why, count in unused.items() if count}
    )


def _positions(placed: Sequence[tuple[Judged, float]], labels: Labels) -> dict[str, float]:
    """Positions of the labelled images by their ids."""
    known = [(image, place) for image, place in placed if image.id in labels.by_id]
    if twice := [name for name, count in Counter(image.id for image, _ in known).items() if count > 1]:
        raise DataError(
            f"a label of {quoted(twice[0], PATH_CHARS)} may mean several images: the verdicts name it again"
        )
    for image, _ in known:
        said = labels.by_id[image.id].image_sha256
        if said and image.image_sha256 and said != image.image_sha256:
            raise DataError(f"the label of {quoted(image.id, PATH_CHARS)} is of another image: its SHA-256 differs")
    return {image.id: place for image, place in known}


def _choice(labels: Labels, used: Sequence[Label], scored: int) -> tuple[Choice, Sequence[Label]]:
    """How the labels that count were chosen, and those."""
    if len(used) == scored:
        return Choice.COMPLETE, used
    if not labels.tells_choice:
        return Choice.ASSUMED, used
    drawn = [label for label in used if label.chance is not None]
    if not drawn:
        raise DataError(
            f"all {len(used)} labels are of images that a person chose, which tell nothing of the others: label what "
            f"the page proposes, or all {scored} scored images"
        )
    return Choice.UNEVEN if len({label.chance for label in drawn}) > 1 else Choice.EVEN, drawn


def _label(table: Table, row: Row, name: str) -> Label:
    where = f"{table}, line {row.line}"
    if row.error is not None:
        raise DataError(f"{where}: {row.error}")
    said = row.values["label"].strip().lower()
    if said not in ("accept", "reject", "skip"):
        raise DataError(f"{where}: label {quoted(said)} is none of accept, reject, skip")
    if not row.values[name]:
        raise DataError(f"{where}: {name} is empty")
    return Label(
        id=row.values[name],
        is_good=None if said == "skip" else said == "accept",
        image_sha256=row.values.get("image_sha256") or None,
        chance=None if row.values.get("chosen") == FREE else _chance(where, row.values.get("chance", "").strip()),
    )


def _chance(where: str, text: str) -> float | None:
    if not text:
        return None
    try:
        chance = float(text)
    except ValueError:
        chance = 0.0
    if not 0 < chance <= 1:
        raise DataError(f"{where}: chance {quoted(text)} is no probability above 0 and up to 1")
    return chance
