"""Configuration of a head's training: a file `cfg/train/*.yaml`."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from m3agiqa.train.configuration import Configuration, Section
from m3agiqa.train.data.splits import Split

#: Names of losses and poolers, as in `m3agiqa.train.head.losses` and `m3agiqa.model.head`, which need torch.
LossName = Literal["mse", "mae", "huber", "fidelity", "margin", "ranknet"]
Pooler = Literal["mean", "max", "last", "first_last_mean"]
#: Losses that need at least two images.
PAIRWISE: frozenset[LossName] = frozenset({"fidelity", "margin", "ranknet"})


class HeadShape(Section):
    """Sizes of a head; the defaults are the published ones."""

    width: int = Field(default=512, ge=64, le=16_384, multiple_of=64)
    blocks: int = Field(default=4, ge=1, le=256)
    #: Indices of the sLSTM blocks; the others are mLSTM.
    slstm_at: tuple[int, ...] = (1,)
    heads: int = Field(default=4, ge=1, le=256)
    #: How the states of all positions are pooled into one.
    pooler: Pooler = "mean"

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not all(0 <= index < self.blocks for index in self.slstm_at):
            raise ValueError(f"slstm_at must be indices of the {self.blocks} blocks, from 0")
        if self.width % self.heads:
            raise ValueError(f"width must be a multiple of heads, {self.heads}")
        return self


class HeadTraining(Configuration):
    """A file of `cfg/train/` for the training of a head."""

    #: Profile whose frozen model is read; `--model` overrides it.
    model: str
    #: Factor of the human scores; 0.05 brings 0..100 to 0..5.
    label_scale: float = Field(default=1.0, gt=0)
    split: Split = Split()
    #: Share of each part's images that is used; `seed` draws them.
    share: float = Field(default=1.0, gt=0, le=1)
    head: HeadShape = HeadShape()
    #: Weights of the losses that are summed.
    loss: dict[LossName, Annotated[float, Field(gt=0)]] = Field(default={"mse": 1.0}, min_length=1)
    epochs: int = Field(default=20, ge=1)
    batch_size: int = Field(default=1, ge=1)
    learning_rate: float = Field(default=1e-5, gt=0)
    weight_decay: float = Field(default=1e-5, ge=0)
    seed: int = Field(default=42, ge=0, lt=2**32)
    #: Stretch and shift the head's scores so that on validation images their mean and spread are those of people's.
    calibrate: bool = False
    #: Type that the head's weights are written in; training is in float32.
    dtype: Literal["float16", "float32"] = "float32"
    #: Gigabytes of hidden states on disk, at most.
    cache_gb: float = Field(default=50, gt=0)

    @model_validator(mode="after")
    def _pairs_need_two(self) -> Self:
        if self.batch_size == 1 and (pairwise := PAIRWISE & set(self.loss)):
            raise ValueError(f"{', '.join(sorted(pairwise))} compare images of a batch: batch_size must be 2 or more")
        return self
