from __future__ import annotations

import torch
from torch.nn import LayerNorm

from m3agiqa.model import norms


def test_a_norm_of_a_sum_keeps_the_sum() -> None:
    states, change, layer = torch.randn(2, 3, 8), torch.randn(2, 3, 8), LayerNorm(8)
    summed, expected = states + change, layer(states + change)

    assert torch.allclose(norms.layer_norm_of_sum(states, change, layer), expected)
    assert torch.equal(states, summed)


def test_a_root_mean_square_norm_of_a_sum_takes_beginnings_of_longer_rows() -> None:
    states, change, weight = torch.randn(3, 8), torch.randn(3, 12)[:, :8], torch.randn(8)
    summed = states + change

    found = norms.rms_norm_of_sum(states, change, weight, 1e-5)

    assert torch.allclose(found, norms.rms_norm(summed, weight, 1e-5))
    assert torch.allclose(found, summed / (summed.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * weight)
    assert torch.equal(states, summed)
