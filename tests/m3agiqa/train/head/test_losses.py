from __future__ import annotations

import math
from statistics import NormalDist
from typing import get_args

import pytest
import torch

from m3agiqa.train.head.losses import LOSSES, MARGIN, mixture
from m3agiqa.train.head.settings import PAIRWISE, LossName

LABELS = torch.tensor([1.0, 2.0, 3.0])


def better(lead: float) -> float:
    """Probability that a score is above another one, which it leads by so much, if both have unit variance."""
    return NormalDist(0, math.sqrt(2)).cdf(lead)


@pytest.mark.parametrize(
    ("name", "scores", "expected"),
    [
        ("mse", [1.0, 2.0, 6.0], 3.0),
        ("mae", [1.0, 2.0, 6.0], 1.0),
        ("huber", [1.0, 2.5, 6.0], (0 + 0.125 + 2.5) / 3),
        # Leads of 0.05, 0.05 and 0.1: the first two are short of the margin by half.
        ("margin", [0.0, 0.05, 0.1], (MARGIN / 2 + MARGIN / 2 + 0) / 3),
        ("ranknet", [0.0, 0.0, 0.0], math.log(2)),
        (
            "ranknet",
            [0.0, 1.0, 3.0],
            (math.log1p(math.exp(-1)) + math.log1p(math.exp(-2)) + math.log1p(math.exp(-3))) / 3,
        ),
        ("fidelity", [0.0, 0.0, 0.0], 1 - math.sqrt(0.5)),
        # The better one is better with the probability that a normal difference of variance 2 says.
        ("fidelity", [0.0, 1.0, 3.0], 1 - sum(math.sqrt(better(lead)) for lead in (1, 2, 3)) / 3),
        # Worse by as much: the probability of the other outcome.
        ("fidelity", [3.0, 2.0, 0.0], 1 - sum(math.sqrt(better(-lead)) for lead in (1, 2, 3)) / 3),
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
def test_an_image_alone_has_no_pair(name: LossName) -> None:
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
    assert float(LOSSES["fidelity"](far, labels)) == pytest.approx(
        1 - math.sqrt(better(4) / 2) - math.sqrt(better(-4) / 2), abs=1e-3
    )
    for name in ("fidelity", "ranknet"):
        assert float(LOSSES[name](far, labels)) > float(LOSSES[name](labels, labels))


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_the_order_of_the_images_does_not_matter(name: LossName) -> None:
    scores = torch.tensor([0.0, 0.05, 0.5])

    assert float(LOSSES[name](scores.flip(0), LABELS.flip(0))) == pytest.approx(float(LOSSES[name](scores, LABELS)))


def test_a_certain_order_has_a_finite_gradient() -> None:
    # given scores so far apart that a probability is 0 or 1 in float32
    for scores in ([0.0, 40.0, 80.0], [80.0, 40.0, 0.0]):
        tensor = torch.tensor(scores, requires_grad=True)
        loss = LOSSES["fidelity"](tensor, LABELS)
        loss.backward()
        # then
        assert math.isfinite(loss.item())
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()


def test_a_mixture_is_the_weighted_sum() -> None:
    scores = torch.tensor([1.0, 3.0, 2.0])

    mixed = mixture({"mse": 2.0, "ranknet": 0.5})(scores, LABELS)

    assert float(mixed) == pytest.approx(
        2 * float(LOSSES["mse"](scores, LABELS)) + 0.5 * float(LOSSES["ranknet"](scores, LABELS))
    )


def test_every_name_that_a_configuration_may_use_is_a_loss() -> None:
    assert set(get_args(LossName)) == set(LOSSES)
