from __future__ import annotations

import pytest
import torch

from m3agiqa.train.head.graphs import TrainingPass
from m3agiqa.train.head.module import HeadModule
from m3agiqa.train.head.settings import HeadShape

ON_GPU = pytest.param(
    "cuda",
    marks=[
        pytest.mark.gpu,
        pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
    ],
)


@pytest.mark.parametrize("device", ["cpu", ON_GPU])
@pytest.mark.parametrize("rows", [2, 4])
def test_scores_and_gradients_are_the_modules_own(device: str, rows: int) -> None:
    # given two equal heads, and batches of several lengths
    lm_head = torch.randn(60, 16, generator=torch.Generator().manual_seed(0)).to(device)
    heads = []
    for _ in range(2):
        torch.manual_seed(1)
        heads.append(HeadModule(HeadShape(width=64, blocks=2), 96, lm_head))
    plain, other = heads
    graphed = TrainingPass(other, rows=4)
    for length in (70, 80, 30, 70):
        hidden = torch.randn(rows, length, 16, device=device).half()
        lengths = torch.randint(1, length + 1, (rows,), device=device)
        # when
        expected, found = plain(hidden, lengths), graphed(hidden, lengths)
        for scores, head in ((expected, plain), (found, other)):
            head.zero_grad()
            scores.square().sum().backward()
        # then
        assert torch.allclose(found, expected, atol=1e-4)
        for (name, parameter), twin in zip(other.named_parameters(), plain.parameters(), strict=True):
            assert parameter.grad is not None, name
            assert twin.grad is not None, name
            assert torch.allclose(parameter.grad, twin.grad, atol=1e-3, rtol=1e-2), name
