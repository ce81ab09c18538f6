from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from m3agiqa.model.checkpoints import read_head
from m3agiqa.model.head import POOLERS, Head
from m3agiqa.train.head.module import HeadModule, save_head
from m3agiqa.train.head.settings import HeadShape, Pooler
from tests.m3agiqa.model.test_head import GOLDEN_HEAD

LM_HEAD = torch.randn(600, 48, generator=torch.Generator().manual_seed(0)) / 7


@torch.enable_grad()
def trained(pooler: Pooler = "mean") -> HeadModule:
    """A module whose weights are no longer those it began with."""
    torch.manual_seed(0)
    module = HeadModule(HeadShape(width=64, pooler=pooler), 40, LM_HEAD)
    optimizer = torch.optim.AdamW(module.parameters(), 1e-2)
    for _ in range(2):
        optimizer.zero_grad()
        module(torch.randn(2, 40, 48), torch.tensor([40, 21])).square().sum().backward()
        optimizer.step()
    return module.eval()


@pytest.mark.parametrize("ending", [".safetensors", ".ckpt"])
@pytest.mark.parametrize("pooler", POOLERS)
@torch.no_grad()
def test_a_saved_head_scores_as_the_trained_module_does(tmp_path: Path, pooler: Pooler, ending: str) -> None:
    # given
    module = trained(pooler)
    hidden, lengths = torch.randn(3, 40, 48), torch.tensor([40, 7, 1])
    # when
    path = tmp_path / f"head{ending}"
    save_head(module, path)
    head = Head(read_head(path), LM_HEAD)
    # then
    expected = module(hidden, lengths)
    assert (head(hidden, lengths) - expected).abs().max() < 1e-4
    assert len(set(expected.tolist())) == 3
    assert not list(tmp_path.glob("*.partial"))


def test_poolers_differ() -> None:
    hidden, lengths = torch.randn(1, 40, 48), torch.tensor([9])

    with torch.no_grad():
        assert len({float(trained(pooler)(hidden, lengths)) for pooler in POOLERS}) == len(POOLERS)


def test_the_checkpoint_is_the_published_layout(tmp_path: Path) -> None:
    save_head(trained(), tmp_path / "head.ckpt")

    ours = torch.load(tmp_path / "head.ckpt", weights_only=True)["state_dict"]
    published = torch.load(GOLDEN_HEAD, weights_only=True)["state_dict"]

    assert set(ours) == set(published)
    for state in (ours, published):
        [kernel] = [tensor for key, tensor in state.items() if key.endswith("_recurrent_kernel_")]
        heads, dim, gates = kernel.shape
        assert (heads, gates) == (4, 4 * dim)


def test_our_recurrence_and_its_gradients_are_the_packages() -> None:
    # given the same weights in a module whose cell runs as the package has it
    module = trained().train()
    theirs = copy.deepcopy(module)
    cell = theirs.xlstm_pooler["xlstm_stack"].blocks[1].xlstm.slstm_cell
    cell._impl = type(cell)._impl.__get__(cell)
    hidden, lengths = torch.randn(3, 40, 48), torch.tensor([40, 7, 1])
    # when
    scores = [head(hidden, lengths) for head in (module, theirs)]
    for of, score in zip((module, theirs), scores, strict=True):
        of.zero_grad()
        score.square().sum().backward()
    # then
    assert torch.allclose(*scores, atol=1e-5)
    gradients = [dict(head.named_parameters()) for head in (module, theirs)]
    for name, parameter in gradients[0].items():
        expected = gradients[1][name].grad
        assert parameter.grad is not None
        assert expected is not None
        assert (parameter.grad - expected).abs().max() <= 1e-4 * max(expected.abs().max().item(), 1e-3), name


@torch.no_grad()
def test_a_head_written_in_half_precision_scores_almost_the_same(tmp_path: Path) -> None:
    module = trained()
    save_head(module, tmp_path / "whole.safetensors")
    save_head(module, tmp_path / "half.safetensors", dtype=torch.float16)
    hidden, lengths = torch.randn(3, 12, 48), torch.tensor([12, 7, 1])

    whole, half = (
        Head(read_head(tmp_path / f"{name}.safetensors"), LM_HEAD)(hidden, lengths) for name in ("whole", "half")
    )

    assert 0 < (whole - half).abs().max() < 0.01
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("whole", "half")]
    assert sizes[1] < 0.6 * sizes[0]
