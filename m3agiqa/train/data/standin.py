"""Stand-in descriptions: where nobody described an aspect of these images, the descriptions of similar images."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from m3agiqa import jsonl
from m3agiqa.contract import Aspect
from m3agiqa.errors import DataError
from m3agiqa.train.data.dataset import DataSet
from m3agiqa.train.data.descriptions import cleaned

#: Distance that one point of score adds; prompts without a common word add 1.
_POINT = 1.0
#: Letters of a word that counts, at least: a shorter one seldom says what an image shows.
_LETTERS = 4


@dataclass(frozen=True)
class Described:
    """A description of another data set's image."""

    prompt: frozenset[str]
    mos: float
    sentences: tuple[str, ...]


def stand_ins(data: DataSet, label: str, source: Path, aspect: Aspect) -> list[dict[str, str]]:
    """Describe each image by the description of the most similar one: near in score, and alike in prompt.

    A sentence that says what the other image shows is left out.

    Args:
        data: the images that need descriptions; those without a score get none.
        label: column of its scores, which stand in for the aspect's.
        source: JSON lines about other images, with `prompt`, `aspect`, `description` and `mos`, 0 to 5.

    Returns:
        Lines of a description file.

    Raises:
        DataError: `source` cannot be read, or describes no image with a score in that aspect.
    """
    described = list(_read(source, aspect))
    if not described:
        raise DataError(f"{source} has no description of {aspect} with a mos")
    lines = []
    for entry in {entry.name: entry for entry in data.entries}.values():
        score = entry.label(label)
        if score is None:
            continue
        words = _words(entry.prompt)
        nearest = sorted(described, key=lambda other: _POINT * abs(other.mos - score) + 1 - _alike(words, other.prompt))
        text = next((text for other in nearest if (text := _general(other, words))), None)
        if text is None:
            raise DataError(f"{source}: every sentence about {aspect} speaks of what its own image shows")
        lines.append({"image": entry.name, "aspect": aspect.value, "prompt": entry.prompt, "description": text})
    return lines


def _general(other: Described, words: frozenset[str]) -> str:
    """The sentences of a description that hold no word of its own prompt alone."""
    foreign = other.prompt - words
    return " ".join(sentence for sentence in other.sentences if not foreign & _words(sentence))


def _alike(one: frozenset[str], other: frozenset[str]) -> float:
    return len(one & other) / max(1, len(one | other))


def _words(text: str) -> frozenset[str]:
    """The words of a text that count, without the s of a plural."""
    return frozenset(word.rstrip("s") for word in re.findall(rf"[a-z]{{{_LETTERS},}}", text.lower()))


def _read(path: Path, aspect: Aspect) -> Iterator[Described]:
    for where, item in jsonl.read(path):
        if item.get("aspect") == aspect and "mos" in item:
            try:
                sentences = tuple(re.split(r"(?<=[.!?])\s+", cleaned(item["description"]).strip()))
                described = Described(_words(item["prompt"]), float(item["mos"]), sentences)
            except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
                raise DataError(f"{where}: not a JSON object with prompt, description and mos") from None
            if not 0 <= described.mos <= 5:
                raise DataError(f"{where}: mos is {described.mos:g}, outside 0..5")
            yield described
