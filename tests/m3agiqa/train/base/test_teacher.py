"""The teacher that is tuned before a base learns from it."""

from __future__ import annotations

import pytest
import torch

from m3agiqa.images import noise_image
from m3agiqa.train.base.average import Average
from m3agiqa.train.base.backbone import MAP_CHANNELS, POOLED, Backbone


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    flat = [torch.frombuffer(bytearray(noise_image(64, 96, seed).rgb.tobytes()), dtype=torch.uint8) for seed in (1, 2)]
    return torch.stack([image.view(96, 64, 3) for image in flat]).permute(0, 3, 1, 2)


@torch.no_grad()
def test_the_backbone_sees_an_image_the_same_beside_another(images: torch.Tensor) -> None:
    backbone = Backbone(2).eval()

    both, alone = backbone(images), backbone(images[:1])

    assert both.maps.shape == (2, MAP_CHANNELS, 6, 4)
    assert both.pooled.shape == (2, POOLED)
    assert both.ratings.shape == (2, 2)
    assert torch.allclose(both.pooled[0], alone.pooled[0], atol=1e-3)
    assert not torch.allclose(both.pooled[0], both.pooled[1], atol=1e-2)


def test_training_leaves_the_normalisation_as_imagenet_left_it(images: torch.Tensor) -> None:
    backbone = Backbone(1, dropout=0.3).train()
    before = backbone.net._bn0.running_mean.clone()

    backbone(images)

    assert torch.equal(backbone.net._bn0.running_mean, before)
    assert backbone.drop.training


def test_the_average_forgets_its_beginning_and_keeps_to_itself() -> None:
    # given
    model = torch.nn.Linear(1, 1)
    torch.nn.init.zeros_(model.weight)
    average = Average(model, decay=0.5)
    torch.nn.init.ones_(model.weight)
    # when
    average.update(model, 0)
    first = float(average.model.weight.detach())
    for step in range(1, 60):
        average.update(model, step)
    # then
    assert first == pytest.approx(0.9)
    assert float(average.model.weight.detach()) == pytest.approx(1)
    assert not any(parameter.requires_grad for parameter in average.model.parameters())
