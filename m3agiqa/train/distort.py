"""Spoilt copies of a data set's pictures: what is worse than what is then known without asking anybody."""

from __future__ import annotations

import csv
import io
import json
import random
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from PIL import Image, ImageFilter
from pydantic import BaseModel, ConfigDict, Field, model_validator

from m3agiqa import config
from m3agiqa.contract import Aspect
from m3agiqa.errors import RequestInvalid
from m3agiqa.train.data import IMAGES, TABLE, DataSet, Entry

Kind = Literal["blur", "downscale", "thumbnail", "jpeg", "noise"]

_THREADS = 16
#: JPEG quality in which spoilt copies are kept: beside what was done to them it is nothing.
_KEPT = 95
#: What a distortion of full strength is: radius in pixels, factor, JPEG quality, deviation of 0..255.
_MOST_BLUR, _MOST_DOWNSCALE, _LEAST_JPEG, _MOST_NOISE = 8.0, 10.0, 4, 60.0
_MOST_JPEG = 40
_FILTER = Image.Resampling.BICUBIC


class Distortions(BaseModel):
    """One of `cfg/train/`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: Copies of each picture.
    copies: int = Field(ge=1)
    #: Strengths that occur, with the word for each: above 0, at most 1.
    degrees: dict[Annotated[float, Field(gt=0, le=1)], str] = Field(min_length=1)
    #: Share of each score that full strength takes away, by column; in between it is in proportion.
    takes: dict[str, Annotated[float, Field(gt=0, le=1)]] = Field(min_length=1)
    #: What is said of a copy, with {degree}: one of its kind's sentences, then one of the aspect's, with {prompt}.
    sentences: dict[Kind, tuple[str, ...]]
    closings: dict[Aspect, tuple[str, ...]]
    seed: int = 42

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
    progress: Callable[[Iterable[None], int], Iterable[None]],
) -> tuple[int, int]:
    """Write a data set of the pictures and their spoilt copies: `images/`, `data.csv` and `descriptions.jsonl`.

    Copies are JPEG files; the table gets the columns `distortion` and `strength`, empty for the pictures themselves.
    Descriptions of the pictures are taken over, those of the copies made of the configuration's sentences.

    Returns:
        How many pictures and copies.

    Raises:
        RequestInvalid: a column is missing, a file cannot be read, or `output` is not empty.
    """
    if missing := [column for column in settings.takes if column not in data.columns]:
        raise RequestInvalid(f"{data.folder} has no column {', '.join(missing)}, only {', '.join(data.columns)}")
    entries = {entry.name: entry for entry in data.entries}
    kept = [line for path in descriptions for line in _lines(path) if line.get("image") in entries]
    if output.exists() and any(output.iterdir()):
        raise RequestInvalid(f"{output} is not empty; name a new folder")
    images = output / IMAGES
    images.mkdir(parents=True)
    copies = list(_copies(entries.values(), settings))
    with ThreadPoolExecutor(_THREADS) as pool:
        taken = pool.map(lambda name: _take(data.picture(name), images / name), entries)
        made = pool.map(lambda copy: _make(data, copy, images / copy.name), copies)
        for _ in progress((done for part in (taken, made) for done in part), len(entries) + len(copies)):
            pass
    with (output / TABLE).open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [*data.columns, "distortion", "strength"])
        writer.writeheader()
        writer.writerows({**entry.values, "distortion": "", "strength": ""} for entry in entries.values())
        writer.writerows(_row(copy, settings) for copy in copies)
    said = [line for copy in copies for line in _said(copy, settings)]
    with (output / "descriptions.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in [*kept, *said])
    return len(entries), len(copies)


def spoil(rgb: Image.Image, kind: Kind, strength: float, seed: int) -> Image.Image:
    """A picture with a distortion of a strength above 0, at most 1, a thumbnail smaller; `seed` is for noise."""
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


def _take(picture: Path, place: Path) -> None:
    try:
        shutil.copyfile(picture, place)
    except OSError as error:
        raise RequestInvalid(f"{picture}: {error.strerror}") from error


def _make(data: DataSet, copy: Copy, place: Path) -> None:
    rgb = data.open(copy.entry.name).rgb
    spoil(rgb, copy.kind, copy.strength, copy.seed).save(place, "JPEG", quality=_KEPT, subsampling=0)


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


def _lines(path: Path) -> list[dict[str, str]]:
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise RequestInvalid(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise RequestInvalid(f"{path} does not hold a JSON object a line: {error}") from error
