"""Stand-in descriptions: for an aspect that nobody described of these images, what was said of others like them."""

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

#: How much a point of score weighs against prompts that share no word.
_POINT = 1.0
#: Letters of a word that says what an image shows; shorter ones are particles.
_LETTERS = 4


@dataclass(frozen=True)
class Said:
    """A description of another data set's image."""

    prompt: frozenset[str]
    mos: float
    sentences: tuple[str, ...]


def stand_ins(data: DataSet, label: str, source: Path, aspect: Aspect) -> list[dict[str, str]]:
    """A description for each image: of the others', one with a near score and a like prompt, without the sentences
    that speak of what the other image shows.

    Args:
        label: column of this data set's scores that stand in for the aspect's.
        source: JSON lines with `prompt`, `aspect`, `description` and `mos`, 0 to 5.

    Returns:
        Lines for a descriptions file.

    Raises:
        DataError: `source` cannot be read or describes no image with a score in that aspect.
    """
    said = list(_read(source, aspect))
    if not said:
        raise DataError(f"{source} has no description of {aspect} with a mos")
    lines = []
    for entry in {entry.name: entry for entry in data.entries}.values():
        score = entry.label(label)
        if score is None:
            continue
        words = _words(entry.prompt)
        nearest = sorted(said, key=lambda other: _POINT * abs(other.mos - score) + 1 - _alike(words, other.prompt))
        text = next((text for other in nearest if (text := _general(other, words))), None)
        if text is None:
            raise DataError(f"{source}: every sentence about {aspect} speaks of what its own image shows")
        lines.append({"image": entry.name, "aspect": aspect.value, "prompt": entry.prompt, "description": text})
    return lines


def _general(said: Said, words: frozenset[str]) -> str:
    foreign = said.prompt - words
    return " ".join(sentence for sentence in said.sentences if not foreign & _words(sentence))


def _alike(one: frozenset[str], other: frozenset[str]) -> float:
    return len(one & other) / max(1, len(one | other))


def _words(text: str) -> frozenset[str]:
    """Words of a text, without the plural's s."""
    return frozenset(word.rstrip("s") for word in re.findall(rf"[a-z]{{{_LETTERS},}}", text.lower()))


def _read(path: Path, aspect: Aspect) -> Iterator[Said]:
    for where, item in jsonl.read(path):
        if item.get("aspect") == aspect and "mos" in item:
            try:
                sentences = tuple(re.split(r"(?<=[.!?])\s+", cleaned(item["description"]).strip()))
                said = Said(_words(item["prompt"]), float(item["mos"]), sentences)
            except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
                raise DataError(f"{where}: not a JSON object with prompt, description and mos") from None
            if not 0 <= said.mos <= 5:
                raise DataError(f"{where}: mos is {said.mos:g}, outside 0..5")
            yield said
