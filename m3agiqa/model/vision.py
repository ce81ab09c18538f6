"""The vision tower and its resampler, which turn each slice of an image into `query_num` embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear
from torch.nn.utils.rnn import pad_sequence
from transformers.models.idefics2.configuration_idefics2 import Idefics2VisionConfig
from transformers.models.idefics2.modeling_idefics2 import Idefics2VisionTransformer

from m3agiqa.model.encoder import encode
from m3agiqa.model.resampler import Resampler
from m3agiqa.model.slicing import Slices


class Tower(nn.Module):
    """`vpm.*` and `resampler.*` of a checkpoint."""

    def __init__(self, vision_config: dict[str, Any], hidden_size: int, query_num: int) -> None:
        super().__init__()
        config = Idefics2VisionConfig(**{key: value for key, value in vision_config.items() if key != "model_type"})
        config._attn_implementation = "sdpa"
        self.vpm = Idefics2VisionTransformer(config)
        self.resampler = Resampler(query_num, hidden_size, config.hidden_size)

    def forward(self, images: Sequence[Slices]) -> list[torch.Tensor]:
        """Encode images, overviews and slices, whose longest slices have the same length, to which all are padded.

        Args:
            images: uint8 patches, on any device.

        Returns:
            [1 + slices, query_num, hidden] of each image, in the tower's dtype.
        """
        patches = [patch for slices in images for patch in slices.patches]
        sizes = [size for slices in images for size in slices.sizes]
        return list(self.resample(self.encode(patches), sizes).split([len(slices.sizes) for slices in images]))

    def encode(self, patches: Sequence[Any]) -> torch.Tensor:
        """Turn uint8 patches, tensors or arrays, into features [n, Lmax, vision hidden].

        As in the original, padding takes part in attention, so the result depends on Lmax; the scores were trained with
        it. Images must therefore not be padded to one another.
        """
        table = self.vpm.embeddings
        weight, bias = table.patch_embedding.parameters()
        side = patches[0].shape[1]
        counts = [patch.shape[-1] // side for patch in patches]
        pixels = (
            torch.cat([torch.as_tensor(patch) for patch in patches], dim=-1).to(weight.device).unflatten(-1, (-1, side))
        )
        # The convolution is one matrix product, because its patches do not overlap.
        flat = normalise(pixels.permute(2, 0, 1, 3).flatten(1)).to(weight.dtype)
        embedded = pad_sequence(linear(flat, weight.flatten(1)).split(counts), batch_first=True) + bias
        positions = table.position_embedding(position_ids(max(counts), table.num_patches_per_side, weight.device))
        if torch.is_inference_mode_enabled():
            return encode(self.vpm, (embedded + positions).contiguous())
        encoded = self.vpm.encoder(inputs_embeds=embedded + positions).last_hidden_state
        features: torch.Tensor = self.vpm.post_layernorm(encoded)
        return features

    def resample(self, features: torch.Tensor, sizes: Sequence[tuple[int, int]]) -> torch.Tensor:
        resampled: torch.Tensor = self.resampler(features, sizes)
        return resampled


@lru_cache(maxsize=256)
@torch.inference_mode(False)
def position_ids(length: int, buckets: int = 70, device: torch.device | None = None) -> torch.Tensor:
    """Position ids [length], int64, of a row of `length` patches. The result is cached: do not change it.

    Fractions k / length fall into buckets, as many as the tower's position table has along one side, by float32
    arithmetic as MiniCPM-V-2.5 does it; an integer formula, and current transformers, differ for some lengths.
    """
    step = 1.0 / torch.tensor(length)
    fractions = torch.arange(0, 1 - 1e-6, step.item())[:length]
    boundaries = torch.arange(1 / buckets, 1.0, 1 / buckets)
    return torch.bucketize(fractions, boundaries, right=True).to(device)


def normalise(patches: torch.Tensor) -> torch.Tensor:
    """Turn uint8 into float32 in [-1, 1], as the original does."""
    return (patches.float().div(255) - 0.5) / 0.5
