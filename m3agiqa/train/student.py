"""A small base as it is trained from nothing, with the readouts that teach it and are then thrown away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d, cross_entropy, interpolate, mse_loss

from m3agiqa.model.vision import Tower
from m3agiqa.train.backbone import MAP_CHANNELS, POOLED
from m3agiqa.train.lessons import IGNORED
from m3agiqa.train.trainee import Trainee
from m3agiqa.train.views import Cut


@dataclass(frozen=True)
class Lesson:
    """Pictures of one size, each with a conversation."""

    cut: Cut
    #: [n, tokens], int64.
    ids: torch.Tensor
    #: [n, tokens], IGNORED where nothing is to be learned.
    labels: torch.Tensor
    #: Places of the pictures' embeddings in every row of `ids`, int64.
    places: torch.Tensor


@dataclass(frozen=True)
class Targets:
    """What pictures are to be read as, each standardised."""

    #: [n, MAP_CHANNELS, any, any].
    maps: torch.Tensor
    #: [n, POOLED].
    pooled: torch.Tensor
    #: [n, ratings].
    ratings: torch.Tensor


@dataclass(frozen=True)
class Read:
    """What a student makes of a lesson."""

    #: [n, MAP_CHANNELS, patches down, patches across], of the slices put together.
    maps: torch.Tensor
    #: [n, POOLED] and [n, ratings], from the language model's mean state over the picture.
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
        self.pooled = nn.Linear(hidden, POOLED)
        self.ratings = nn.Linear(hidden, ratings)

    def forward(self, lesson: Lesson) -> Read:
        base, cut = self.base, lesson.cut
        count = len(lesson.ids)
        # Tower's own way of encoding.
        features = Tower.encode(base, cut.patches)  # type: ignore[arg-type]
        pictures = base.resampler(features, cut.sizes * count)
        embedded = base.llm.get_input_embeddings()(lesson.ids)
        pictures = pictures.reshape(count, -1, pictures.shape[-1]).to(embedded.dtype)
        embedded = embedded.index_copy(1, lesson.places, pictures)
        states = base.llm.model(inputs_embeds=embedded, use_cache=False).last_hidden_state
        picture = states[:, lesson.places].mean(1)
        following = lesson.labels[:, 1:]
        labelled = following != IGNORED
        return Read(
            maps=self._map(self.maps(features).unflatten(0, (count, -1)), cut),
            pooled=self.pooled(picture),
            ratings=self.ratings(picture),
            logits=base.llm.lm_head(states[:, :-1][labelled]),
            wanted=following[labelled],
        )

    @staticmethod
    def _map(read: torch.Tensor, cut: Cut) -> torch.Tensor:
        """[n, 1 + slices, Lmax, channels] to one map of each whole picture."""
        cells = read[:, 1:] if cut.grid.slices else read
        rows, columns = (cut.grid.rows, cut.grid.columns) if cut.grid.slices else (1, 1)
        height, width = cut.sizes[-1]
        cells = cells[:, :, : height * width].unflatten(2, (height, width)).unflatten(1, (rows, columns))
        whole: torch.Tensor = cells.permute(0, 5, 1, 3, 2, 4)
        return whole.reshape(len(read), -1, rows * height, columns * width)


def losses(read: Read, targets: Targets) -> dict[str, torch.Tensor]:
    """Mean squared errors of maps, pooled features and ratings, and the cross entropy of the text, 0 without any.

    A target map that is finer than the student's is averaged to its places, any other interpolated.
    """
    size = (read.maps.shape[-2], read.maps.shape[-1])
    finer = targets.maps.shape[-2] >= size[0] and targets.maps.shape[-1] >= size[1]
    maps = adaptive_avg_pool2d(targets.maps, size) if finer else interpolate(targets.maps, size, mode="bilinear")
    text = cross_entropy(read.logits.float(), read.wanted) if len(read.wanted) else read.logits.sum()
    return {
        "map": mse_loss(read.maps.float(), maps),
        "pooled": mse_loss(read.pooled.float(), targets.pooled),
        "rating": mse_loss(read.ratings.float(), targets.ratings),
        "text": text,
    }


def padded(rows: Sequence[Sequence[int]], value: int, device: torch.device) -> torch.Tensor:
    """Rows of different lengths to one tensor, int64, padded on the right."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows], device=device)
