"""Spoilt copies of a data set's images: what is worse than what is then known without asking anybody."""

from __future__ import annotations

import csv
import io
import random
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from PIL import Image, ImageFilter
from pydantic import BaseModel, ConfigDict, Field, model_validator

from m3agiqa import config, jsonl
from m3agiqa.console import reason
from m3agiqa.contract import Aspect
from m3agiqa.errors import DataError, OutputError
from m3agiqa.outputs import make_folder, write
from m3agiqa.pools import threads
from m3agiqa.progress import Progress, tracked
from m3agiqa.train.data.dataset import IMAGES, TABLE, DataSet, Entry

Kind = Literal["blur", "downscale", "thumbnail", "jpeg", "noise"]

_THREADS = 16
_DESCRIPTIONS = "descriptions.jsonl"
#: JPEG quality in which spoilt copies are kept: beside what was done to them it is nothing.
_KEPT = 95
#: What a distortion of full strength is: radius in pixels, factor, JPEG quality, deviation of 0..255.
_MOST_BLUR, _MOST_DOWNSCALE, _LEAST_JPEG, _MOST_NOISE = 8.0, 10.0, 4, 60.0
_MOST_JPEG = 40
_FILTER = Image.Resampling.BICUBIC


class Distortions(BaseModel):
    """One of `cfg/train/`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    #: Copies of each image.
    copies: int = Field(ge=1)
    #: Strengths that occur, with the word for each: above 0, at most 1.
    degrees: dict[Annotated[float, Field(gt=0, le=1)], str] = Field(min_length=1)
    #: Share of each score that full strength takes away, by column; in between it is in proportion.
    takes: dict[str, Annotated[float, Field(gt=0, le=1)]] = Field(min_length=1)
    #: What is said of a copy, with {degree}: one of its kind's sentences, then one of the aspect's, with {prompt}.
    sentences: dict[Kind, tuple[str, ...]]
    closings: dict[Aspect, tuple[str, ...]]
    seed: int = Field(default=42, ge=0, lt=2**32)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if not self.sentences or not all((*self.sentences.values(), *self.closings.values())):
            raise ValueError("every kind and every aspect needs a sentence")
        return self

    @classmethod
    def load(cls, name: str) -> Self:
        """Raises: ConfigError: no such file, or it is wrong."""
        return config.load(config.find("train", name), cls)


@dataclass(frozen=True)
class Copy:
    """One spoilt copy."""

    entry: Entry
    name: str
    kind: Kind
    strength: float
    seed: int


def distort(
    data: DataSet,
    descriptions: Sequence[Path],
    settings: Distortions,
    output: Path,
    progress: Progress,
) -> tuple[int, int]:
    """Write a data set of the images and their spoilt copies: `images/`, `data.csv` and `descriptions.jsonl`.

    Copies are JPEG files; the table gets the columns `distortion` and `strength`, empty for the images themselves.
    Descriptions of the images are taken over, those of the copies made of the configuration's sentences.

    Returns:
        How many images and copies.

    Raises:
        OutputError: a column is missing, a file cannot be read, or `output` is not empty.
    """
    if missing := [column for column in settings.takes if column not in data.columns]:
        raise DataError(f"{data.folder} has no column {', '.join(missing)}, only {', '.join(data.columns)}")
    entries = {entry.name: entry for entry in data.entries}
    kept = [line for path in descriptions for _, line in jsonl.read(path) if str(line.get("image")) in entries]
    images = output / IMAGES
    make_folder(output)
    if any(output.iterdir()):
        raise OutputError(f"{output} is not empty; name a new folder")
    try:
        make_folder(images)
        copies = list(_copies(entries.values(), settings))
        _write(data, entries, copies, kept, settings, output, progress)
    except BaseException:
        # A folder in which something is left would refuse the same command.
        shutil.rmtree(images, ignore_errors=True)
        (output / _DESCRIPTIONS).unlink(missing_ok=True)
        raise
    return len(entries), len(copies)


def _write(
    data: DataSet,
    entries: Mapping[str, Entry],
    copies: Sequence[Copy],
    kept: Sequence[Mapping[str, Any]],
    settings: Distortions,
    output: Path,
    progress: Progress,
) -> None:
    images = output / IMAGES
    with threads(_THREADS) as pool:
        taken = pool.map(lambda name: _take(data.image(name), images / name), entries)
        made = pool.map(lambda copy: _make(data, copy, images / copy.name), copies)
        for _ in tracked(chain(taken, made), len(entries) + len(copies), progress):
            pass
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, [*data.columns, "distortion", "strength"])
    writer.writeheader()
    writer.writerows({**entry.values, "distortion": "", "strength": ""} for entry in entries.values())
    writer.writerows(_row(copy, settings) for copy in copies)
    said = [line for copy in copies for line in _said(copy, settings)]
    write(output / _DESCRIPTIONS, jsonl.dump([*kept, *said]))
    # Last: with its table, the data set is whole.
    write(output / TABLE, table.getvalue())


def spoil(rgb: Image.Image, kind: Kind, strength: float, seed: int) -> Image.Image:
    """An image with a distortion of a strength above 0, at most 1, a thumbnail smaller; `seed` is for noise."""
    if kind == "blur":
        return rgb.filter(ImageFilter.GaussianBlur(_MOST_BLUR * strength))
    if kind in ("downscale", "thumbnail"):
        factor = _MOST_DOWNSCALE**strength
        small = rgb.resize((max(1, round(rgb.width / factor)), max(1, round(rgb.height / factor))), _FILTER)
        return small if kind == "thumbnail" else small.resize(rgb.size, _FILTER)
    if kind == "jpeg":
        buffer = io.BytesIO()
        rgb.save(buffer, "JPEG", quality=round(_MOST_JPEG + (_LEAST_JPEG - _MOST_JPEG) * strength))
        return Image.open(buffer).convert("RGB")
    noise = np.random.default_rng(seed).normal(0, _MOST_NOISE * strength, (rgb.height, rgb.width, 3))
    return Image.fromarray((np.asarray(rgb) + noise).round().clip(0, 255).astype(np.uint8))


def _copies(entries: Iterable[Entry], settings: Distortions) -> Iterable[Copy]:
    for entry in entries:
        chance = random.Random(f"{settings.seed} {entry.name}")
        possible = [(kind, strength) for kind in settings.sentences for strength in settings.degrees]
        for kind, strength in chance.sample(possible, min(settings.copies, len(possible))):
            name = f"{entry.name}~{kind}{strength * 100:.0f}.jpg"
            yield Copy(entry, name, kind, strength, seed=chance.randrange(1 << 30))


def _take(image: Path, place: Path) -> None:
    try:
        shutil.copyfile(image, place)
    except OSError as error:
        raise DataError(reason(error)) from error


def _make(data: DataSet, copy: Copy, place: Path) -> None:
    rgb = data.open(copy.entry.name).rgb
    file = io.BytesIO()
    spoil(rgb, copy.kind, copy.strength, copy.seed).save(file, "JPEG", quality=_KEPT, subsampling=0)
    write(place, file.getvalue())


def _row(copy: Copy, settings: Distortions) -> dict[str, str]:
    row = {**copy.entry.values, "name": copy.name, "distortion": copy.kind, "strength": f"{copy.strength:g}"}
    for column, share in settings.takes.items():
        score = copy.entry.label(column)
        row[column] = "" if score is None else f"{score * (1 - share * copy.strength):.6f}"
    return row


def _said(copy: Copy, settings: Distortions) -> Iterable[Mapping[str, str]]:
    chance = random.Random(copy.seed)
    for aspect, closings in settings.closings.items():
        text = f"{chance.choice(settings.sentences[copy.kind])} {chance.choice(closings)}"
        places = {"{degree}": settings.degrees[copy.strength], "{prompt}": copy.entry.prompt}
        for place, value in places.items():
            text = text.replace(place, value)
        text = text[0].upper() + text[1:]
        yield {"image": copy.name, "aspect": aspect.value, "prompt": copy.entry.prompt, "description": text}
