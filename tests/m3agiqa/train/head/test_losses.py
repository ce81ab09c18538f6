from __future__ import annotations

import math

import pytest
import torch

from m3agiqa.train.head.losses import LOSSES, MARGIN, mixture
from m3agiqa.train.head.settings import PAIRWISE, LossName

LABELS = torch.tensor([1.0, 2.0, 3.0])


@pytest.mark.parametrize(
    ("name", "scores", "expected"),
    [
        ("mse", [1.0, 2.0, 6.0], 3.0),
        ("mae", [1.0, 2.0, 6.0], 1.0),
        ("huber", [1.0, 2.5, 6.0], (0 + 0.125 + 2.5) / 3),
        # Leads of 0.05, 0.05 and 0.1: the first two are short of the margin by half.
        ("margin", [0.0, 0.05, 0.1], (MARGIN / 2 + MARGIN / 2 + 0) / 3),
        ("ranknet", [0.0, 0.0, 0.0], math.log(2)),
        ("fidelity", [0.0, 0.0, 0.0], 1 - math.sqrt(0.5)),
    ],
)
def test_losses_by_hand(name: LossName, scores: list[float], expected: float) -> None:
    assert float(LOSSES[name](torch.tensor(scores), LABELS)) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_a_better_order_costs_less_and_the_gradient_leads_there(name: LossName) -> None:
    right, wrong = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([3.0, 2.0, 1.0], requires_grad=True)

    loss = LOSSES[name](wrong, LABELS)
    loss.backward()

    assert LOSSES[name](right, LABELS).item() < loss.item()
    assert wrong.grad is not None
    assert wrong.grad[0] > 0 > wrong.grad[2]


@pytest.mark.parametrize("name", sorted(PAIRWISE))
def test_a_image_alone_has_no_pair(name: LossName) -> None:
    score = torch.tensor([2.0], requires_grad=True)

    loss = LOSSES[name](score, torch.tensor([1.0]))
    loss.backward()

    assert loss.item() == 0
    assert score.grad is not None
    assert score.grad.tolist() == [0]


def test_equal_labels_want_equal_scores_or_do_not_count() -> None:
    labels = torch.tensor([2.0, 2.0])
    far = torch.tensor([0.0, 4.0])

    assert float(LOSSES["margin"](far, labels)) == 0
    for name in ("fidelity", "ranknet"):
        assert float(LOSSES[name](far, labels)) > float(LOSSES[name](labels, labels))


def test_a_mixture_is_the_weighted_sum() -> None:
    scores = torch.tensor([1.0, 3.0, 2.0])

    mixed = mixture({"mse": 2.0, "ranknet": 0.5})(scores, LABELS)

    assert float(mixed) == pytest.approx(
        2 * float(LOSSES["mse"](scores, LABELS)) + 0.5 * float(LOSSES["ranknet"](scores, LABELS))
    )
