from __future__ import annotations

import pytest
import torch

from m3agiqa.errors import ConfigError
from m3agiqa.model import float8
from m3agiqa.model.float8 import Float8Weight

CPU = torch.device("cpu")


def test_a_rounded_weight_is_near_itself_row_by_row() -> None:
    # given rows of very different sizes
    weight = torch.randn(64, 128, generator=torch.Generator().manual_seed(0)) * torch.logspace(-4, 4, 64)[:, None]

    rounded = Float8Weight.from_weight(weight).whole(torch.float32)

    # then every number is within half a step of a row's largest, of which e4m3 has three bits behind the first
    assert bool(((rounded - weight).abs() <= weight.abs().amax(dim=1, keepdim=True) / 16).all())
    assert 0.01 < float((rounded - weight).norm() / weight.norm()) < 0.04


def test_a_row_of_zeros_stays_zeros() -> None:
    assert float(Float8Weight.from_weight(torch.zeros(2, 16)).product(torch.randn(3, 16)).abs().max()) == 0


def test_each_token_is_rounded_by_itself() -> None:
    # given two tokens, one far larger
    weight = Float8Weight.from_weight(torch.randn(48, 64, generator=torch.Generator().manual_seed(1)))
    states = torch.randn(2, 64, generator=torch.Generator().manual_seed(2)) * torch.tensor([[1.0], [1e4]])

    together = weight.product(states)

    # then neither loses to the other's size
    assert torch.allclose(together[:1], weight.product(states[:1]), rtol=1e-4)
    exact = states @ weight.whole(torch.float32).T
    assert float((together - exact)[0].norm() / exact[0].norm()) < 0.05


def test_plain_weights_multiply_as_they_are() -> None:
    weight, states = torch.randn(4, 8), torch.randn(2, 8)

    assert torch.equal(float8.product(states, weight), torch.nn.functional.linear(states, weight))


@pytest.mark.parametrize(("rows", "after"), [(32, 32), (33, 48), (1, 16)])
def test_rows_are_padded_to_as_many_as_a_gpu_multiplies(rows: int, after: int) -> None:
    padded = float8.padded(torch.ones(rows, 3))

    assert padded.shape == (after, 3)
    assert float(padded.sum()) == rows * 3


@pytest.mark.parametrize(("found", "refused"), [((8, 6), True), ((8, 9), False), ((9, 0), False)])
def test_a_card_without_it_is_refused(found: tuple[int, int], refused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: found)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA RTX A6000")
    if not refused:
        return float8.check_device(CPU)
    with pytest.raises(ConfigError, match=r"needs a GPU of compute capability 8\.9 .* NVIDIA RTX A6000 has 8\.6"):
        float8.check_device(CPU)
    return None
