import torch

from m3agiqa.train.base.smoothing import out_of_fold
from m3agiqa.train.evaluation.metrics import srcc

COUNT = 120


def material() -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    features = torch.randn(COUNT, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.stack([features[:, 0] + features[:, 1].abs(), features[:, 2]], dim=1)
    return features, labels, [f"prompt {index // 3}" for index in range(COUNT)]


def test_scores_are_told_from_features() -> None:
    features, labels, groups = material()

    smooth = out_of_fold(features, labels, groups, seed=1)

    assert smooth.shape == labels.shape
    for column in range(2):
        assert srcc(smooth[:, column].double().numpy(), labels[:, column].double().numpy()) > 0.8


def test_no_image_is_told_by_scores_of_its_own_prompt() -> None:
    # given the scores of one prompt are turned upside down
    features, labels, groups = material()
    changed = labels.clone()
    changed[30:33] *= -10
    # when
    before, after = (out_of_fold(features, each, groups, seed=1) for each in (labels, changed))
    # then what is said of its images stays, and what is said of others does not
    assert torch.allclose(before[30:33], after[30:33], atol=1e-6)
    assert not torch.allclose(before, after, atol=1e-2)


def test_images_without_a_score_get_one_and_give_none() -> None:
    features, labels, groups = material()
    known = labels.clone()
    known[60:] = float("nan")

    smooth = out_of_fold(features, known, groups, seed=1)

    assert bool(smooth.isfinite().all())
    assert srcc(smooth[60:, 0].double().numpy(), labels[60:, 0].double().numpy()) > 0.7
