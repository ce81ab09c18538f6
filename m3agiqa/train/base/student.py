"""A small base as it is trained from nothing, with the readouts that teach it and are then thrown away."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d, cross_entropy, interpolate, mse_loss

from m3agiqa.model.vision import Tower
from m3agiqa.train.adapter.trainee import Trainee
from m3agiqa.train.base.backbone import MAP_CHANNELS, POOLED
from m3agiqa.train.base.views import Cut
from m3agiqa.train.data.lessons import IGNORED

_LENGTHS = 64


@dataclass(frozen=True)
class Lesson:
    """A conversation about each of some images that were cut alike."""

    #: (height, width) in patches of one image's overview and slices.
    sizes: list[tuple[int, int]]
    #: [n, tokens], int64.
    ids: torch.Tensor
    #: [n, tokens], IGNORED where nothing is to be learned.
    labels: torch.Tensor
    #: Places of the images' embeddings in every row of `ids`, int64.
    places: torch.Tensor


@dataclass(frozen=True)
class Targets:
    """What images are to be read as, each standardised."""

    #: [n, POOLED].
    pooled: torch.Tensor
    #: [n, ratings].
    ratings: torch.Tensor


@dataclass(frozen=True)
class Seen:
    """What the tower makes of images."""

    #: [n, 1 + slices, Lmax, vision hidden].
    features: torch.Tensor
    #: [n, MAP_CHANNELS, patches down, patches across], of the slices put together.
    maps: torch.Tensor
    #: [n, POOLED] and [n, ratings], from means and deviations of the patches' features.
    pooled: torch.Tensor
    ratings: torch.Tensor


@dataclass(frozen=True)
class Told:
    """What the language model makes of a lesson."""

    #: [n, POOLED] and [n, ratings], from its mean state over the image.
    pooled: torch.Tensor
    ratings: torch.Tensor
    #: Logits of the labelled tokens [labelled, vocab], and those tokens.
    logits: torch.Tensor
    wanted: torch.Tensor


class Student(nn.Module):
    def __init__(self, config: dict[str, Any], ratings: int) -> None:
        super().__init__()
        self.base = Trainee(config)
        hidden, seen = config["hidden_size"], config["vision_config"]["hidden_size"]
        resampler = self.base.resampler
        nn.init.normal_(resampler.query, std=0.02)
        nn.init.normal_(resampler.proj, std=hidden**-0.5)
        self.maps = nn.Linear(seen, MAP_CHANNELS)
        self.seen = nn.Linear(2 * seen, POOLED + ratings)
        self.told = nn.Linear(hidden, POOLED + ratings)

    def see(self, cut: Cut) -> Seen:
        # Tower's own way of encoding.
        features = Tower.encode(self.base, cut.patches)  # type: ignore[arg-type]
        features = features.unflatten(0, (-1, len(cut.sizes)))
        patches = features.float().flatten(1, 2)
        read = self.seen(torch.cat([patches.mean(1), patches.std(1)], dim=1))
        return Seen(features, self._map(self.maps(features), cut), pooled=read[:, :POOLED], ratings=read[:, POOLED:])

    def tell(self, features: torch.Tensor, lesson: Lesson) -> Told:
        """What is made of images' `Seen.features`."""
        llm = self.base.llm
        images = self.base.resampler(features.flatten(0, 1).to(self.told.weight.dtype), lesson.sizes * len(features))
        embedded = llm.get_input_embeddings()(lesson.ids)
        images = images.reshape(len(features), -1, images.shape[-1]).to(embedded.dtype)
        embedded = embedded.index_copy(1, lesson.places, images)
        states = llm.model(inputs_embeds=embedded, use_cache=False).last_hidden_state
        read = self.told(states[:, lesson.places].mean(1))
        following = lesson.labels[:, 1:]
        labelled = following != IGNORED
        return Told(
            pooled=read[:, :POOLED],
            ratings=read[:, POOLED:],
            logits=llm.lm_head(states[:, :-1][labelled]),
            wanted=following[labelled],
        )

    @staticmethod
    def _map(read: torch.Tensor, cut: Cut) -> torch.Tensor:
        """[n, 1 + slices, Lmax, channels] to one map of each whole image."""
        cells = read[:, 1:] if cut.grid.slices else read
        rows, columns = (cut.grid.rows, cut.grid.columns) if cut.grid.slices else (1, 1)
        height, width = cut.sizes[-1]
        cells = cells[:, :, : height * width].unflatten(2, (height, width)).unflatten(1, (rows, columns))
        whole: torch.Tensor = cells.permute(0, 5, 1, 3, 2, 4)
        return whole.reshape(len(read), -1, rows * height, columns * width)


def map_loss(read: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Mean squared error of maps; a finer wanted map is averaged to the other's places, any other interpolated."""
    size = (read.shape[-2], read.shape[-1])
    finer = wanted.shape[-2] >= size[0] and wanted.shape[-1] >= size[1]
    wanted = adaptive_avg_pool2d(wanted, size) if finer else interpolate(wanted, size, mode="bilinear")
    return mse_loss(read.float(), wanted)


def readout_losses(read: Seen | Told, targets: Targets) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean squared errors of the pooled features and of the ratings."""
    return mse_loss(read.pooled.float(), targets.pooled), mse_loss(read.ratings.float(), targets.ratings)


def text_loss(told: Told) -> torch.Tensor:
    return cross_entropy(told.logits.float(), told.wanted)


def padded(rows: Sequence[Sequence[int]], value: int, device: torch.device) -> torch.Tensor:
    """Rows of different lengths to one tensor, int64, padded on the right.

    To a multiple of `_LENGTHS`: batches of ever other sizes leave a host's memory in pieces.
    """
    longest = math.ceil(max(map(len, rows)) / _LENGTHS) * _LENGTHS
    return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows], device=device)
