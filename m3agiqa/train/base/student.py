"""A small base as it is trained from nothing, with the readouts that teach it and are then thrown away."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d, cross_entropy, interpolate, linear, mse_loss, pad

from m3agiqa.model.vision import normalise, position_ids
from m3agiqa.train.adapter.trainee import Trainee
from m3agiqa.train.base.backbone import MAP_CHANNELS, POOLED, Features
from m3agiqa.train.base.views import Cut
from m3agiqa.train.data.lessons import IGNORED
from m3agiqa.train.head.losses import ranknet

_LENGTHS = 64


@dataclass(frozen=True)
class Chapter:
    """A conversation about each of some images that were cut alike."""

    #: (height, width) in patches of one image's overview and slices.
    sizes: list[tuple[int, int]]
    #: [n, tokens], int64.
    ids: torch.Tensor
    #: Positions of the images' embeddings in every row of `ids`, int64.
    image_positions: torch.Tensor
    #: Positions in `ids.flatten()` behind which a token is to be learned, and those tokens; both int64 [learned].
    before: torch.Tensor
    wanted: torch.Tensor


@dataclass(frozen=True)
class Readout:
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
    #: From means and deviations of the patches' features.
    readout: Readout


@dataclass(frozen=True)
class Told:
    """What the language model makes of a chapter."""

    #: From its mean state over the image.
    readout: Readout
    #: Logits [learned, vocab].
    logits: torch.Tensor


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
        features = self.encode(cut)
        patches = features.float().flatten(1, 2)
        read = self.seen(torch.cat([patches.mean(1), patches.std(1)], dim=1))
        return Seen(features, self._map(self.maps(features), cut), _split(read))

    def tell(self, features: torch.Tensor, chapter: Chapter) -> Told:
        """What is made of images' `Seen.features`."""
        llm = self.base.llm
        images = self.base.resampler(features.flatten(0, 1).to(self.told.weight.dtype), chapter.sizes * len(features))
        embedded = llm.get_input_embeddings()(chapter.ids)
        images = images.reshape(len(features), -1, images.shape[-1]).to(embedded.dtype)
        embedded = embedded.index_copy(1, chapter.image_positions, images)
        states = llm.model(inputs_embeds=embedded, use_cache=False).last_hidden_state
        read = self.told(states[:, chapter.image_positions].mean(1))
        return Told(_split(read), logits=llm.lm_head(states.flatten(0, 1)[chapter.before]))

    def encode(self, cut: Cut) -> torch.Tensor:
        """As `Tower.encode`, of many images cut alike: [n, 1 + slices, Lmax, vision hidden]."""
        vpm = self.base.vpm
        table = vpm.embeddings
        weight, bias = table.patch_embedding.parameters()
        longest = max(cell.shape[1] for cell in cut.cells)
        embedded = [
            pad(linear(normalise(cell), weight.flatten(1)), (0, 0, 0, longest - cell.shape[1])) for cell in cut.cells
        ]
        positions = table.position_embedding(position_ids(longest, table.num_patches_per_side, weight.device))
        states = torch.stack(embedded, dim=1).flatten(0, 1) + bias + positions
        encoded = vpm.post_layernorm(vpm.encoder(inputs_embeds=states).last_hidden_state)
        features: torch.Tensor = encoded.unflatten(0, (-1, len(cut.cells)))
        return features

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
    """Mean squared error of maps; a finer wanted map is averaged to the other's cells, any other interpolated."""
    size = (read.shape[-2], read.shape[-1])
    finer = wanted.shape[-2] >= size[0] and wanted.shape[-1] >= size[1]
    wanted = adaptive_avg_pool2d(wanted, size) if finer else interpolate(wanted, size, mode="bilinear")
    return mse_loss(read.float(), wanted)


def readout_losses(read: Readout, taught: Features) -> dict[str, torch.Tensor]:
    """Errors of the pooled features and the ratings, squared, and of the order into which ratings bring the images."""
    ratings = read.ratings.float()
    columns = zip(ratings.unbind(1), taught.ratings.unbind(1), strict=True)
    return {
        "pooled": mse_loss(read.pooled.float(), taught.pooled),
        "rating": mse_loss(ratings, taught.ratings),
        "order": torch.stack([ranknet(mine, others) for mine, others in columns]).mean(),
    }


def text_loss(told: Told, chapter: Chapter) -> torch.Tensor:
    return cross_entropy(told.logits.float(), chapter.wanted)


def chapter(
    rows: Sequence[Sequence[int]],
    labels: Sequence[Sequence[int]],
    sizes: list[tuple[int, int]],
    image_bounds: Sequence[tuple[int, int]],
    pad_id: int,
    device: torch.device,
) -> Chapter:
    """Conversations of different lengths, padded on the right, whose images stand at the same positions.

    To a multiple of `_LENGTHS`: batches of ever other sizes leave a host's memory in pieces. What is to be learned is
    found here, on the host, so that nobody waits for the device.
    """
    longest = math.ceil(max(map(len, rows)) / _LENGTHS) * _LENGTHS
    ids = torch.tensor([[*row, *[pad_id] * (longest - len(row))] for row in rows])
    known = torch.tensor([[*row, *[IGNORED] * (longest - len(row))] for row in labels]).flatten()
    # Every row begins with a token of the user's.
    learned = (known != IGNORED).nonzero().squeeze(1)
    return Chapter(
        sizes=sizes,
        ids=ids.to(device),
        image_positions=torch.cat([torch.arange(*bound) for bound in image_bounds]).to(device),
        before=(learned - 1).to(device),
        wanted=known[learned].to(device),
    )


def _split(read: torch.Tensor) -> Readout:
    return Readout(pooled=read[:, :POOLED], ratings=read[:, POOLED:])
