"""What goes into a scorer and what comes out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from m3agiqa.contract import Aspect, AspectScore, Failure
from m3agiqa.cutting import SlicedImage
from m3agiqa.images import DecodedImage

if TYPE_CHECKING:
    from m3agiqa.engine.encoding import EncodedImage


@dataclass(frozen=True)
class Job:
    """One image to score; `aspects` None asks for all the scorer has."""

    image: DecodedImage | SlicedImage
    prompt: str
    aspects: tuple[Aspect, ...] | None = None
    #: What stands in the scoring conversation of an aspect, in place of what the model would write.
    descriptions: Mapping[Aspect, str] = field(default_factory=dict)
    #: The image as a scorer's `prepare` made it ahead of time, for that scorer alone.
    prepared: EncodedImage | None = None


@dataclass(frozen=True)
class Scores:
    """What became of one image: every aspect asked for is in exactly one of the two."""

    aspects: Mapping[Aspect, AspectScore]
    failures: Mapping[Aspect, Failure] = field(default_factory=dict)
    #: Milliseconds of the batch this image was in, by stage.
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    #: Images in that batch, where one was gathered.
    batch: int | None = None
