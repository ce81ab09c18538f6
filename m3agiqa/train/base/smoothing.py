"""Scores as features explain them: what a regression says of an image without having seen its prompt's own scores.

A small network that is to fit human scores directly soon knows its training images by heart. These it cannot.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch

_FOLDS = 8
#: Inverse squared width of the kernel in standardised features, and the ridge.
_GAMMA, _RIDGE = 0.3, 0.3
#: Standard deviation beneath which a feature counts as constant.
_LEAST = 1e-6


def out_of_fold(features: torch.Tensor, labels: torch.Tensor, groups: Sequence[str], seed: int) -> torch.Tensor:
    """Kernel ridge regression (Gaussian kernel on standardised features), whole groups left out in turn.

    Args:
        features: [n, features].
        labels: [n, columns], NaN where there is none.
        groups: n names.
        seed: of the division into folds.

    Returns:
        [n, columns], float32, on the features' device; a number for images without a label too.
    """
    names = sorted(set(groups))
    random.Random(seed).shuffle(names)
    fold_of = {name: number % _FOLDS for number, name in enumerate(names)}
    folds = torch.tensor([fold_of[group] for group in groups], device=features.device)
    x, y = features.double(), labels.to(features.device, torch.float64)
    x = (x - x.mean(0)) / x.std(0).clamp_min(_LEAST)
    kernel = torch.exp(-_GAMMA / x.shape[1] * torch.cdist(x, x).square())
    smooth = torch.empty_like(y)
    for fold in range(min(_FOLDS, len(names))):
        asked = folds == fold
        for column in range(y.shape[1]):
            known = ~asked & y[:, column].isfinite()
            mean = y[known, column].mean()
            ridge = kernel[known][:, known] + _RIDGE * torch.eye(int(known.sum()), device=x.device, dtype=x.dtype)
            weights = torch.linalg.solve(ridge, y[known, column] - mean)
            smooth[asked, column] = kernel[asked][:, known] @ weights + mean
    return smooth.float()
