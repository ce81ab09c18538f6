"""`cfg/train/mini-base.yaml`: a small base's sizes, and how it is trained."""

from __future__ import annotations

import math
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from m3agiqa.model.shape import Shape
from m3agiqa.train.configuration import Configuration, Section
from m3agiqa.train.data.splits import Split


def _whole(sizes: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
    if not sizes or any(side < 32 or side % 32 for size in sizes for side in size):
        raise ValueError("must be pairs of multiples of 32")
    return sizes


#: Widths and heights of views, multiples of 32 and at most `side`; each step takes one of them.
Sizes = Annotated[tuple[tuple[int, int], ...], AfterValidator(_whole)]


class Tuning(Section):
    """How the teacher's backbone is tuned to human scores before a base learns from it."""

    sizes: Sizes = ((512, 512),)
    epochs: int = Field(default=8, ge=1)
    batch_size: int = Field(default=32, ge=2)
    learning_rate: float = Field(default=5e-4, gt=0)
    #: Learning rate of the layer that reads scores, which knows nothing yet.
    readout_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.05, ge=0)
    #: Share of the pooled features that training hides from that layer.
    dropout: float = Field(default=0.3, ge=0, lt=1)
    #: Weight of the order into which scores bring a batch's images, beside the scores themselves.
    order: float = Field(default=0.5, ge=0)
    #: Share of the steps over which the rates rise; then they fall along a cosine.
    warmup: float = Field(default=0.05, ge=0, lt=1)
    ema: float = Field(default=0.995, ge=0, lt=1)


class Pretraining(Configuration):
    """One of `cfg/train/`."""

    shape: Shape
    #: Columns of human scores that are taught.
    labels: tuple[str, ...] = Field(min_length=1)
    split: Split = Split()
    #: Side to which images are brought when they are loaded, pixels.
    side: int = Field(default=512, ge=32, multiple_of=32)
    teacher: Tuning = Tuning()
    sizes: Sizes = ((512, 512),)
    max_slices: int = Field(default=9, ge=1, le=9)
    #: Share of a batch's views that are altered so that nobody ever scored them; the teacher says what they are worth.
    altered: float = Field(default=0.5, ge=0, le=1)
    #: Steps that teach the tower, and views of one.
    steps: int = Field(ge=1)
    batch_size: int = Field(default=16, ge=2)
    #: Steps behind them that teach the language model and the resampler, and images of one.
    text_steps: int = Field(ge=1)
    text_batch_size: int = Field(default=64, ge=2)
    learning_rate: float = Field(default=1e-3, gt=0)
    #: Share of either kind's steps over which the rate rises; then it falls along a cosine.
    warmup: float = Field(default=0.02, ge=0, lt=1)
    weight_decay: float = Field(default=0.05, ge=0)
    #: Decay of the running average of the weights, which is what is kept.
    ema: float = Field(default=0.99, ge=0, lt=1)
    #: Compute in bfloat16 where that is safe; a CPU without instructions for it is slower that way.
    autocast: bool = True
    #: Steps between evaluations, each of which keeps a checkpoint.
    evaluate_every: int = Field(default=500, ge=1)
    seed: int = Field(default=42, ge=0, lt=2**32)

    @model_validator(mode="after")
    def _views_fit(self) -> Self:
        if any(side > self.side for size in (*self.sizes, *self.teacher.sizes) for side in size):
            raise ValueError(f"sizes must not exceed side, {self.side}")
        return self

    def rate(self, step: int) -> float:
        """Learning rate of a step, from 0; those that teach the language model come last."""
        if step < self.steps:
            return self.learning_rate * cosine(step, self.steps, self.warmup)
        return self.learning_rate * cosine(step - self.steps, self.text_steps, self.warmup)


def cosine(step: int, steps: int, warmup: float) -> float:
    """Share of the highest rate at a step from 0: it rises over the share `warmup` of all steps, then falls."""
    rising = max(1, round(warmup * steps))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))
