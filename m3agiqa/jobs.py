"""A scorer's input, `Job`, and its output, `Scores`."""

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
    #: Descriptions by aspect that stand in the scoring conversation instead of ones that the model writes.
    descriptions: Mapping[Aspect, str] = field(default_factory=dict)
    #: Most tokens of the description that the model writes, by aspect; its profile's own limit stays.
    limits: Mapping[Aspect, int] = field(default_factory=dict)
    #: The image as a scorer's `prepare` made it ahead of time; only that scorer can use it.
    prepared: EncodedImage | None = None


@dataclass(frozen=True)
class Scores:
    """One image's results: every aspect asked for is in exactly one of `aspects` and `failures`."""

    aspects: Mapping[Aspect, AspectScore]
    failures: Mapping[Aspect, Failure] = field(default_factory=dict)
    #: Milliseconds of the batch this image was in, by stage.
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    #: Images in that batch; None if no batch was gathered.
    batch: int | None = None
    #: Scores under a neutral prompt, where a policy's `prompt_guard` asked for them.
    neutral: Mapping[Aspect, float] = field(default_factory=dict)
