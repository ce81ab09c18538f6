"""The losses that training minimises, by name. Pairwise losses compare every two images of a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch.nn import functional

from m3agiqa.train.head.settings import LossName

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

#: Points of MOS by which the better of two images should score higher.
MARGIN = 0.1
#: Added under a square root, to keep its gradient finite.
_EPS = 1e-8


def fidelity(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Fidelity loss of the probability that the first image is better (Tsai et al., 2007; UNIQUE, arXiv 2005.13983)."""
    difference, target = _pairs(scores, labels)
    # The normal distribution function of a difference of two scores, each of unit variance.
    predicted = 0.5 * (1 + torch.erf(difference / 2))
    agreeing = torch.sqrt(predicted * target + _EPS)
    return _mean(1 - agreeing - torch.sqrt((1 - predicted) * (1 - target) + _EPS), scores)


def margin(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Hinge loss on the better image's lead; ties do not count."""
    difference, target = _pairs(scores, labels)
    sign = 2 * target - 1
    return _mean(functional.relu(MARGIN - sign * difference)[sign != 0], scores)


def ranknet(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross entropy with the score difference as logit (Burges et al., 2005)."""
    difference, target = _pairs(scores, labels)
    return _mean(functional.binary_cross_entropy_with_logits(difference, target, reduction="none"), scores)


LOSSES: Mapping[LossName, Loss] = {
    "mse": functional.mse_loss,
    "mae": functional.l1_loss,
    "huber": functional.huber_loss,
    "fidelity": fidelity,
    "margin": margin,
    "ranknet": ranknet,
}


def mixture(weights: Mapping[LossName, float]) -> Loss:
    """The weighted sum of losses of scores [rows] and labels [rows]."""

    def loss(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return torch.stack([weight * LOSSES[name](scores, labels) for name, weight in weights.items()]).sum()

    return loss


def _pairs(scores: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Score differences of all pairs, and 1 where the first is better, 0 where the second is, 0.5 at a tie."""
    first, second = torch.triu_indices(len(scores), len(scores), offset=1, device=scores.device)
    target = 0.5 * (1 + torch.sign(labels[first] - labels[second]))
    return scores[first] - scores[second], target


def _mean(losses: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """The mean, or a zero with a gradient where there is no pair."""
    return losses.mean() if losses.numel() else scores.sum() * 0
