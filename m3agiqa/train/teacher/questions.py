"""The question that a teacher is asked about an image, and the explanations in its answer."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from pydantic import Field, field_validator, model_validator

from m3agiqa.contract import Aspect
from m3agiqa.files import read_image
from m3agiqa.train.configuration import Configuration
from m3agiqa.train.teacher.clients import Refused

#: The key of an aspect's explanation in the answer.
KEYS: Mapping[Aspect, str] = {
    Aspect.QUALITY: "quality_explanation",
    Aspect.CORRESPONDENCE: "alignment_explanation",
    Aspect.AUTHENTICITY: "authenticity_explanation",
}

#: Media types of the formats that teachers take; other images are sent as PNG.
_MIME = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}

#: Half of a surrogate pair: JSON can write it, UTF-8 cannot.
_HALF = re.compile("[\ud800-\udfff]")


class BrokenAnswer(Refused):
    """The answer is not the JSON that was asked for."""


class Template(Configuration):
    """A file `cfg/train/teacher-*.yaml`."""

    aspects: tuple[Aspect, ...] = Field(min_length=1)
    #: Lowest and highest score of the scale that the teacher is told, after `--label-scale`.
    scale: tuple[float, float] = (0, 5)
    #: The question, with the placeholders {prompt}, {scores}, {low}, {high} and {example}.
    text: str
    example: dict[str, str]

    @field_validator("text")
    @classmethod
    def _has_placeholders(cls, value: str) -> str:
        if missing := [name for name in ("{prompt}", "{scores}", "{example}") if name not in value]:
            raise ValueError(f"must hold {', '.join(missing)}")
        return value

    @model_validator(mode="after")
    def _example_fits(self) -> Self:
        if set(self.example) != {KEYS[aspect] for aspect in self.aspects}:
            raise ValueError(f"the example's keys must be {', '.join(KEYS[aspect] for aspect in self.aspects)}")
        return self

    def question(self, prompt: str, scores: Mapping[Aspect, float]) -> str:
        """The text that is sent with the image."""
        low, high = self.scale
        told = "; ".join(
            f"{KEYS[aspect].removesuffix('_explanation')}: {scores[aspect]:.2f}" for aspect in self.aspects
        )
        values = {
            "{prompt}": prompt,
            "{scores}": told,
            "{low}": f"{low:g}",
            "{high}": f"{high:g}",
            "{example}": json.dumps(self.example, indent=2),
        }
        # In one pass: a prompt may hold what looks like a placeholder.
        return re.sub("|".join(map(re.escape, values)), lambda match: values[match[0]], self.text)

    def explanations(self, answer: str) -> dict[Aspect, str]:
        """Each aspect's explanation.

        Raises:
            BrokenAnswer: the answer is not JSON, or lacks an explanation.
        """
        fenced = re.search(r"```(?:json)?\s*(.*?)```", answer, re.DOTALL)
        try:
            content = json.loads(fenced[1] if fenced else answer)
        except (ValueError, RecursionError):
            raise BrokenAnswer("the answer is not JSON") from None
        found = {}
        for aspect in self.aspects:
            text = content.get(KEYS[aspect]) if isinstance(content, dict) else None
            if not isinstance(text, str) or not text.strip():
                raise BrokenAnswer(f"the answer has no {KEYS[aspect]}")
            if _HALF.search(text):
                raise BrokenAnswer(f"the answer's {KEYS[aspect]} holds half of a character")
            found[aspect] = text.strip()
        return found


def sent_image(path: Path) -> tuple[bytes, str]:
    """The bytes that a teacher is sent for an image, and their media type.

    Raises:
        FetchError, ImageError: there is no usable image.
    """
    image = read_image(path)
    if image.info.format in _MIME and image.info.frames == 1:
        return path.read_bytes(), _MIME[image.info.format]
    buffer = io.BytesIO()
    image.rgb.save(buffer, "PNG")
    return buffer.getvalue(), "image/png"
