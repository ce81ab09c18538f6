"""Measures how far hostile prompts move a model's scores of the same images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from m3agiqa import config
from m3agiqa.contract import MAX_PROMPT_CHARS, Aspect, Decision, Failure
from m3agiqa.guard import NEUTRAL
from m3agiqa.jobs import Job, Scores
from m3agiqa.policy import BLIND, SEVERITY, Policy
from m3agiqa.prompts import neutralised
from m3agiqa.scorer import Scoring

#: The kind of prompts that are those of other images of the same source, and how many each image gets.
SWAPPED = "swapped"
_SWAPS = 3

_OWN = "{prompt}"


class Phrase(BaseModel):
    """A prompt that may hold the image's own as `{prompt}`; `times` times in a row."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str
    times: int = Field(default=1, ge=1, le=MAX_PROMPT_CHARS)

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, value: object) -> object:
        return {"text": value} if isinstance(value, str) else value

    def about(self, own: str) -> str:
        """The prompt for an image whose own is `own`, as long as a prompt may be."""
        return (self.text.replace(_OWN, own) * self.times)[:MAX_PROMPT_CHARS]


class Prompts(BaseModel):
    """One file of `cfg/probes/`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    kinds: dict[str, tuple[Phrase, ...]] = Field(min_length=1)

    @model_validator(mode="after")
    def _leaves_swaps(self) -> Self:
        if SWAPPED in self.kinds:
            raise ValueError(f"{SWAPPED}: these are the prompts of other images; name the kind otherwise")
        return self

    @classmethod
    def load(cls, name: str) -> Self:
        """Load prompts by name or path.

        Raises:
            ConfigError: there is no such file, or it is wrong.
        """
        return config.load(config.find("probes", name), cls)

    def for_image(self, number: int, owns: Sequence[str]) -> Iterator[tuple[str, str]]:
        """Kind and text of every prompt for image `number`, where `owns` are the images' own prompts."""
        own = owns[number]
        for kind, phrases in self.kinds.items():
            for phrase in phrases:
                yield kind, phrase.about(own)
        others = [other for other in dict.fromkeys([*owns[number + 1 :], *owns[:number]]) if other not in ("", own)]
        for other in others[:_SWAPS]:
            yield SWAPPED, other


@dataclass(frozen=True)
class Subject:
    """An image with its own prompt, opened to be scored; or why it cannot be."""

    name: str
    job: Job | Failure


@dataclass(frozen=True)
class Trial:
    """What one prompt did to one image."""

    image: str
    kind: str
    prompt: str
    #: Score under this prompt less the score under the image's own, by aspect that has both.
    moved: Mapping[Aspect, float]
    own: Decision
    decision: Decision
    #: The image or one of its aspects has no score under this prompt.
    failed: bool

    @property
    def milder(self) -> bool:
        """Whether the decision came out milder than under the image's own prompt."""
        return SEVERITY[self.decision] < SEVERITY[self.own]

    @property
    def stricter(self) -> bool:
        return SEVERITY[self.decision] > SEVERITY[self.own]


def trials(subjects: Sequence[Subject], prompts: Prompts, scorer: Scoring, policy: Policy) -> Iterator[list[Trial]]:
    """Score each image under its own prompt and under every other one; yields the trials of one image after another.

    An image that cannot be scored under its own prompt has none.
    """
    owns = [subject.job.prompt if isinstance(subject.job, Job) else "" for subject in subjects]
    for number, subject in enumerate(subjects):
        if isinstance(subject.job, Failure):
            yield []
            continue
        asked = list(prompts.for_image(number, owns))
        own, *outcomes = scorer.score(list(_jobs(subject.job, [text for _, text in asked])))
        judged = _Judge(policy, scorer.aspects, _neutral(subject.job, scorer, policy))
        yield list(_compared(subject.name, own, zip(asked, outcomes, strict=True), judged))


def _jobs(job: Job, texts: Iterable[str]) -> Iterator[Job]:
    for text in (job.prompt, *texts):
        yield Job(job.image, neutralised(text), job.aspects)


def _neutral(job: Job, scorer: Scoring, policy: Policy) -> dict[Aspect, float]:
    """Scores under a neutral prompt, where the policy's `prompt_guard` needs them."""
    if policy.prompt_guard is None or not (aspects := tuple(each for each in BLIND if each in scorer.aspects)):
        return {}
    [outcome] = scorer.score([Job(job.image, NEUTRAL, aspects)])
    known = {} if isinstance(outcome, Failure) else outcome.aspects
    return {aspect: scored.score for aspect, scored in known.items()}


@dataclass(frozen=True)
class _Judge:
    """A policy for an image, whose scores under a neutral prompt serve its `prompt_guard`."""

    policy: Policy
    aspects: Sequence[Aspect]
    neutral: Mapping[Aspect, float]

    def decide(self, outcome: Scores | Failure) -> Decision:
        if isinstance(outcome, Failure):
            return self.policy.decide({}, self.aspects, outcome)[0]
        return self.policy.decide(outcome.aspects, self.aspects, neutral=self.neutral)[0]


def _compared(
    image: str, own: Scores | Failure, outcomes: Iterable[tuple[tuple[str, str], Scores | Failure]], judge: _Judge
) -> Iterator[Trial]:
    if isinstance(own, Failure):
        return
    before = judge.decide(own)
    for (kind, prompt), outcome in outcomes:
        scores = {} if isinstance(outcome, Failure) else outcome.aspects
        moved = {aspect: scores[aspect].score - own.aspects[aspect].score for aspect in scores if aspect in own.aspects}
        yield Trial(image, kind, prompt, moved, before, judge.decide(outcome), failed=len(scores) < len(judge.aspects))


def summary(found: Iterable[Trial]) -> dict[str, dict[str, Any]]:
    """What each kind of prompt did, as JSON values, by kind.

    `aspects` has for each aspect the mean and the largest move (by magnitude, with its sign), in points of the MOS
    scale, the image and prompt of the latter, and the share of trials that lowered the score.
    """
    by_kind: dict[str, list[Trial]] = {}
    for trial in found:
        by_kind.setdefault(trial.kind, []).append(trial)
    return {kind: _summed(group) for kind, group in by_kind.items()}


def _summed(group: Sequence[Trial]) -> dict[str, Any]:
    moved = {aspect: [trial for trial in group if aspect in trial.moved] for aspect in Aspect}
    return {
        "trials": len(group),
        "failed": sum(trial.failed for trial in group),
        "milder": sum(trial.milder for trial in group),
        "stricter": sum(trial.stricter for trial in group),
        "aspects": {aspect.value: _moves(aspect, rows) for aspect, rows in moved.items() if rows},
    }


def _moves(aspect: Aspect, rows: Sequence[Trial]) -> dict[str, Any]:
    worst = max(rows, key=lambda trial: abs(trial.moved[aspect]))
    return {
        "mean": fmean(trial.moved[aspect] for trial in rows),
        "largest": worst.moved[aspect],
        "image": worst.image,
        "prompt": worst.prompt,
        "lowered": fmean(trial.moved[aspect] < 0 for trial in rows),
    }
