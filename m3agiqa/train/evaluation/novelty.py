"""How far descriptions are the model's own: whether they differ, and how much of them is copied from given texts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

from m3agiqa.train.evaluation.predictions import Prediction

#: Words of a sequence that two texts hardly share by chance.
_GRAM = 8


def novelty(rows: Sequence[Prediction], texts: Iterable[str]) -> dict[str, Any]:
    """How many descriptions are distinct, and the share of their 8-grams (words, lower case) that `texts` also have.

    The share is null where no description has eight words.
    """
    descriptions = [row.description for row in rows if row.description is not None]
    known = set(chain.from_iterable(map(_grams, texts)))
    grams = list(chain.from_iterable(map(_grams, descriptions)))
    return {
        "descriptions": len(descriptions),
        "descriptions_distinct": len(set(descriptions)),
        "grams_in_texts": sum(gram in known for gram in grams) / len(grams) if grams else None,
    }


def _grams(text: str) -> Iterable[tuple[str, ...]]:
    words = text.lower().split()
    return zip(*(words[start:] for start in range(_GRAM)), strict=False)
