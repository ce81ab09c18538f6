"""The start-up check: a model must score the golden images as it did before, or it may score no others.

A profile's golden values are kept in `golden/NAME.yaml` beside the profile; `m3agiqa golden` writes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import cycle, islice
from pathlib import Path
from typing import Self

import yaml
from pydantic import BaseModel, ConfigDict

from m3agiqa import config
from m3agiqa.contract import Aspect, AspectScore, Failure, ModelInfo
from m3agiqa.errors import GoldenMismatch, ScoringError
from m3agiqa.images import noise_image
from m3agiqa.jobs import Job, Scores

#: Largest accepted difference, in points of the scale from 0 to 5, unless a profile has its own. Batching and float16
#: move a score by less, given the same description.
TOLERANCE = 0.02
#: Characters of a description that are compared. After them, rounding may lead the search elsewhere.
_BEGINNING = 16

#: Width, height and prompt of each golden image, by name; each size is cut into slices in its own way.
_IMAGES = {
    "square": (512, 512, "coloured blotches on a wall"),
    "wide": (768, 320, "a long row of flags in the fog, seen through a wet window on a grey morning"),
    "small": (224, 320, ""),
}

#: Scores a batch of jobs.
Score = Callable[[Sequence[Job]], Sequence[Scores | Failure]]


class GoldenScore(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    #: Score of the conversation that holds this description, computed in float32.
    score: float
    description: str


class Golden(BaseModel):
    """One file of golden values."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: Revisions of the weights, as verdicts show them.
    revisions: dict[str, str]
    #: Golden values by image, then by aspect.
    pictures: dict[str, dict[Aspect, GoldenScore]]

    @classmethod
    def load(cls, path: Path) -> Self | None:
        """Read a file of golden values; None if there is no such file.

        Raises:
            ConfigError: the file is broken.
        """
        return config.load(path, cls) if path.is_file() else None

    @classmethod
    def from_model(cls, score: Score, info: ModelInfo) -> Self:
        """The golden values that a model gives now.

        Raises:
            ScoringError: the model cannot score a golden image.
        """
        images = {
            name: {
                aspect: GoldenScore(score=round(scored.score, 6), description=scored.description)
                for aspect, scored in scores.items()
            }
            for name, scores in _alone(score).items()
        }
        return cls(revisions=info.revisions, pictures=images)

    def text(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, width=120)


@cache
def jobs() -> dict[str, Job]:
    """The golden images, by name."""
    return {
        name: Job(noise_image(width, height, seed), prompt)
        for seed, (name, (width, height, prompt)) in enumerate(_IMAGES.items())
    }


def check(
    score: Score, info: ModelInfo, golden: Golden | None, *, max_batch: int, tolerance: float = TOLERANCE
) -> list[str]:
    """Score the golden images alone, in a full batch, and with the descriptions that are kept.

    Scores are compared for equal descriptions: another description is another input.

    Args:
        score: scores a batch.
        info: the model that `score` runs.
        golden: the values it gave before; None if none are kept.
        max_batch: images in a full batch.
        tolerance: largest accepted difference, points.

    Returns:
        Findings, as lines for a log.

    Raises:
        ScoringError: a golden image cannot be scored.
        GoldenMismatch: scores or descriptions are not what they should be.
    """
    alone = _alone(score)
    names = list(islice(cycle(alone), max(max_batch, len(alone))))
    # The model writes these descriptions itself, so that a full batch compiles its kernels and takes its memory now.
    _scores(score, names, {})
    written = {
        name: {aspect: scored.description for aspect, scored in scores.items()} for name, scores in alone.items()
    }
    furthest = 0.0
    for name, scores in zip(names, _scores(score, names, written), strict=True):
        for aspect, scored in scores.items():
            known = alone[name][aspect].score
            furthest = max(furthest, abs(scored.score - known))
            if abs(scored.score - known) > tolerance:
                raise GoldenMismatch(
                    f"{aspect} of the golden image {name!r} is {scored.score:.4f} in a batch of {max_batch} and "
                    f"{known:.4f} alone, more than {tolerance} apart: this device does not compute as it should; try "
                    "another device, driver or version of torch, or smaller batches"
                )
    found = [f"golden images score alone as in a batch of {max_batch}, {furthest:.4f} apart at most"]
    if golden is None:
        return [*found, f"no golden values are kept for {info.profile}, so nothing else was checked"]
    return [*found, *_against(golden, info, score, alone, tolerance)]


def _against(
    golden: Golden,
    info: ModelInfo,
    score: Score,
    alone: Mapping[str, Mapping[Aspect, AspectScore]],
    tolerance: float,
) -> Iterator[str]:
    renew = f"if you changed the profile on purpose, renew the values with `m3agiqa golden {info.profile}`"
    if golden.revisions != info.revisions:
        raise GoldenMismatch(
            f"the golden values of {info.profile} belong to other weights ({_differing(golden, info)}); {renew}"
        )
    kept = {
        name: {aspect: value.description for aspect, value in values.items()}
        for name, values in golden.pictures.items()
    }
    if kept.keys() != alone.keys() or any(kept[name].keys() != alone[name].keys() for name in kept):
        raise GoldenMismatch(f"the golden values of {info.profile} belong to other images or aspects; {renew}")
    furthest = 0.0
    for name in kept:
        [scores] = _scores(score, [name], kept)
        for aspect, scored in scores.items():
            expected = golden.pictures[name][aspect].score
            furthest = max(furthest, abs(scored.score - expected))
            if abs(scored.score - expected) > tolerance:
                raise GoldenMismatch(
                    f"{aspect} of the golden image {name!r} is {scored.score:.4f}, not {expected:.4f} as it was, "
                    f"more than {tolerance} apart: {info.profile} or the machine has changed; {renew}; otherwise try "
                    "another device, driver or version of torch"
                )
    yield f"golden values of {info.profile} are met, {furthest:.4f} apart at most"
    pairs = [(alone[name][aspect].description, kept[name][aspect]) for name in kept for aspect in kept[name]]
    same = sum(mine[:_BEGINNING] == theirs[:_BEGINNING] for mine, theirs in pairs)
    if same == 0:
        raise GoldenMismatch(
            f"none of {len(pairs)} descriptions of golden images begins as it did before: {info.profile} or the "
            f"machine has changed; {renew}; otherwise try another device, driver or version of torch"
        )
    yield f"{same} of {len(pairs)} descriptions begin as they did"


def _differing(golden: Golden, info: ModelInfo) -> str:
    parts = golden.revisions.keys() | info.revisions.keys()
    return ", ".join(sorted(part for part in parts if golden.revisions.get(part) != info.revisions.get(part)))


def _alone(score: Score) -> dict[str, Mapping[Aspect, AspectScore]]:
    return {name: _scores(score, [name], {})[0] for name in _IMAGES}


def _scores(
    score: Score, names: Sequence[str], descriptions: Mapping[str, Mapping[Aspect, str]]
) -> list[Mapping[Aspect, AspectScore]]:
    """Score golden images in one batch; the model writes the descriptions that are not given."""
    known = jobs()
    outcomes = score([replace(known[name], descriptions=descriptions.get(name, {})) for name in names])
    for name, outcome in zip(names, outcomes, strict=True):
        failure = outcome if isinstance(outcome, Failure) else next(iter(outcome.failures.values()), None)
        if failure is not None:
            raise ScoringError(f"the model cannot score the golden image {name!r}: {failure.code}: {failure.message}")
    return [outcome.aspects for outcome in outcomes if isinstance(outcome, Scores)]
