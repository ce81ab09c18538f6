"""Distorted copies of a data set's images: a copy is known to be worse than its image, so nobody has to score it."""

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
from pydantic import Field, model_validator

from m3agiqa import jsonl
from m3agiqa.contract import Aspect
from m3agiqa.errors import DataError, OutputError
from m3agiqa.inputs import read_bytes
from m3agiqa.outputs import make_folder, write
from m3agiqa.pools import threads
from m3agiqa.progress import Progress, tracked
from m3agiqa.train.configuration import Configuration
from m3agiqa.train.data.dataset import IMAGES, TABLE, DataSet, Entry

Kind = Literal["blur", "downscale", "thumbnail", "jpeg", "noise"]

_THREADS = 16
_DESCRIPTIONS = "descriptions.jsonl"
#: JPEG quality that copies are saved with; too high to be a distortion of its own.
_KEPT = 95
#: Distortions of full strength: radius in pixels, factor, JPEG quality, standard deviation of values 0..255.
_MOST_BLUR, _MOST_DOWNSCALE, _LEAST_JPEG, _MOST_NOISE = 8.0, 10.0, 4, 60.0
#: JPEG quality of the weakest distortion.
_MOST_JPEG = 40
_FILTER = Image.Resampling.BICUBIC


class Distortions(Configuration):
    """A file of `cfg/train/` that says how images are distorted."""

    #: Copies made of each image.
    copies: int = Field(ge=1)
    #: Strengths to draw from, above 0 and at most 1, with a word for each.
    degrees: dict[Annotated[float, Field(gt=0, le=1)], str] = Field(min_length=1)
    #: Share of each score that full strength takes away, by column; less strength takes away less, in proportion.
    takes: dict[str, Annotated[float, Field(gt=0, le=1)]] = Field(min_length=1)
    #: A copy's description is a sentence of its kind, with {degree}, and a closing of the aspect, with {prompt}.
    sentences: dict[Kind, tuple[str, ...]]
    closings: dict[Aspect, tuple[str, ...]]
    seed: int = Field(default=42, ge=0, lt=2**32)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if not self.sentences or not all((*self.sentences.values(), *self.closings.values())):
            raise ValueError("every kind and every aspect needs a sentence")
        return self


@dataclass(frozen=True)
class DistortedCopy:
    """A copy to be made of an image."""

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
    """Write a data set of the images and their distorted copies: `images/`, `data.csv` and `descriptions.jsonl`.

    Copies are JPEG files. The table gets the columns `distortion` and `strength`, empty for the images themselves. The
    images keep their descriptions; the copies get descriptions made of the configuration's sentences.

    Returns:
        The numbers of images and of copies.

    Raises:
        DataError: a column is missing, or a file cannot be read.
        OutputError: `output` is not empty, or cannot be written to.
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
        # The same command would refuse a folder that is not empty.
        shutil.rmtree(images, ignore_errors=True)
        (output / _DESCRIPTIONS).unlink(missing_ok=True)
        raise
    return len(entries), len(copies)


def _write(
    data: DataSet,
    entries: Mapping[str, Entry],
    copies: Sequence[DistortedCopy],
    kept: Sequence[Mapping[str, Any]],
    settings: Distortions,
    output: Path,
    progress: Progress,
) -> None:
    images = output / IMAGES
    with threads(_THREADS) as pool:
        copied = pool.map(lambda name: write(images / name, read_bytes(data.image(name))), entries)
        made = pool.map(lambda copy: _make(data, copy, images / copy.name), copies)
        for _ in tracked(chain(copied, made), len(entries) + len(copies), progress):
            pass
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, [*data.columns, "distortion", "strength"])
    writer.writeheader()
    writer.writerows({**entry.values, "distortion": "", "strength": ""} for entry in entries.values())
    writer.writerows(_row(copy, settings) for copy in copies)
    made_up = [line for copy in copies for line in _descriptions(copy, settings)]
    write(output / _DESCRIPTIONS, jsonl.dump([*kept, *made_up]))
    # The table comes last: with it, the data set is whole.
    write(output / TABLE, table.getvalue())


def distorted(rgb: Image.Image, kind: Kind, strength: float, seed: int) -> Image.Image:
    """An image with a distortion; a thumbnail is smaller than the image.

    Args:
        rgb: the image.
        kind: what is done to it.
        strength: above 0, at most 1.
        seed: draws noise.
    """
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


def _copies(entries: Iterable[Entry], settings: Distortions) -> Iterable[DistortedCopy]:
    for entry in entries:
        chance = random.Random(f"{settings.seed} {entry.name}")
        possible = [(kind, strength) for kind in settings.sentences for strength in settings.degrees]
        for kind, strength in chance.sample(possible, min(settings.copies, len(possible))):
            name = f"{entry.name}~{kind}{strength * 100:.0f}.jpg"
            yield DistortedCopy(entry, name, kind, strength, seed=chance.randrange(1 << 30))


def _make(data: DataSet, copy: DistortedCopy, path: Path) -> None:
    rgb = data.open(copy.entry.name).rgb
    file = io.BytesIO()
    distorted(rgb, copy.kind, copy.strength, copy.seed).save(file, "JPEG", quality=_KEPT, subsampling=0)
    write(path, file.getvalue())


def _row(copy: DistortedCopy, settings: Distortions) -> dict[str, str]:
    row = {**copy.entry.values, "name": copy.name, "distortion": copy.kind, "strength": f"{copy.strength:g}"}
    for column, share in settings.takes.items():
        score = copy.entry.label(column)
        row[column] = "" if score is None else f"{score * (1 - share * copy.strength):.6f}"
    return row


def _descriptions(copy: DistortedCopy, settings: Distortions) -> Iterable[Mapping[str, str]]:
    chance = random.Random(copy.seed)
    for aspect, closings in settings.closings.items():
        text = f"{chance.choice(settings.sentences[copy.kind])} {chance.choice(closings)}"
        text = text.replace("{degree}", settings.degrees[copy.strength]).replace("{prompt}", copy.entry.prompt)
        text = text[0].upper() + text[1:]
        yield {"image": copy.name, "aspect": aspect.value, "prompt": copy.entry.prompt, "description": text}
