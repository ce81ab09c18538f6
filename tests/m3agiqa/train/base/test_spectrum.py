from __future__ import annotations

import pytest
import torch
from torch import nn

from m3agiqa.train.base.spectrum import embed_spectrum

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.rand(6, 3, 64, 48, generator=GENERATOR) * 2 - 1


def embedding(patch: int, channels: int) -> nn.Conv2d:
    return nn.Conv2d(3, channels, patch, stride=patch)


@pytest.mark.parametrize(("patch", "channels"), [(16, 192), (14, 64), (8, 96)])
def test_each_channel_is_standardised_over_the_images(patch: int, channels: int) -> None:
    layer = embedding(patch, channels)

    embed_spectrum(layer, IMAGES)

    found = layer(IMAGES)
    assert torch.allclose(found.mean((0, 2, 3)), torch.zeros(channels), atol=1e-4)
    assert torch.allclose(found.std((0, 2, 3)), torch.full((channels,), 0.5), atol=1e-3)


def test_channels_ask_for_different_things() -> None:
    layer = embedding(16, 192)

    embed_spectrum(layer, IMAGES)

    directions = nn.functional.normalize(layer.weight.flatten(1), dim=1)
    alike = (directions @ directions.T).fill_diagonal_(0)
    assert alike.abs().max() < 0.5  # the two differences of colour overlap


def test_an_even_patch_is_in_the_lowest_frequency_alone() -> None:
    layer = embedding(16, 192)
    embed_spectrum(layer, IMAGES)
    even, even_brighter = (torch.full((1, 3, 16, 16), value) for value in (0.0, 0.5))

    moved = (layer(even_brighter) - layer(even)).flatten().abs()

    assert moved[0] > 0.1
    assert moved[1:128].max() < 1e-4
