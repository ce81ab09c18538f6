from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy import stats

from m3agiqa.train.evaluation.metrics import as_json, correlations, fit_logistic, krcc, plcc, srcc, srcc_by_group


def related(count: int, noise: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores and labels that follow them, rounded so that there are ties."""
    random = np.random.default_rng(seed)
    scores = random.normal(2.5, 1, count)
    return scores.round(1), (scores + noise * random.normal(size=count)).round(1)


@pytest.mark.parametrize("seed", range(3))
def test_correlations_are_scipys(seed: int) -> None:
    scores, labels = related(80, seed=seed)

    assert srcc(scores, labels) == pytest.approx(stats.spearmanr(scores, labels).statistic, abs=1e-12)
    assert plcc(scores, labels) == pytest.approx(stats.pearsonr(scores, labels).statistic, abs=1e-12)
    assert krcc(scores, labels) == pytest.approx(stats.kendalltau(scores, labels).statistic, abs=1e-12)


def test_an_interval_is_scipys_bootstrap_up_to_chance() -> None:
    # given
    scores, labels = related(150)
    expected = stats.bootstrap(
        (scores, labels), plcc, paired=True, vectorized=False, n_resamples=2000, method="percentile", rng=1
    ).confidence_interval
    # when
    estimate = correlations(scores.tolist(), labels.tolist(), resamples=2000)["plcc"]
    # then
    assert estimate.interval == pytest.approx((expected.low, expected.high), abs=0.02)
    assert estimate.value is not None
    assert estimate.interval is not None
    assert estimate.interval[0] < estimate.value < estimate.interval[1]


def test_intervals_hang_on_the_seed_alone() -> None:
    scores, labels = (values.tolist() for values in related(40))

    assert correlations(scores, labels, seed=1) == correlations(scores, labels, seed=1)
    assert (
        correlations(scores, labels, seed=1)["srcc"].interval != correlations(scores, labels, seed=2)["srcc"].interval
    )


def test_the_logistic_straightens_a_curve_and_never_loses_to_a_line() -> None:
    # given labels that saturate
    scores = np.linspace(0, 5, 100)
    labels = 5 / (1 + np.exp(-4 * (scores - 1)))
    # then
    assert plcc(scores, labels) < 0.8
    assert plcc(fit_logistic(scores, labels)(scores), labels) > 0.9999
    for seed in range(3):
        noisy, others = related(30, noise=3, seed=seed)
        assert plcc(fit_logistic(noisy, others)(noisy), others) >= abs(plcc(noisy, others)) - 1e-9


def test_scores_that_run_backwards_are_mapped_forwards() -> None:
    scores, labels = related(60, noise=0.2)
    estimates = correlations((-scores).tolist(), labels.tolist(), resamples=20)

    assert estimates["plcc"].value == pytest.approx(-plcc(scores, labels))
    assert estimates["plcc_logistic"].value is not None
    assert estimates["plcc_logistic"].value > 0.9


def test_within_groups_is_the_mean_over_groups_and_ignores_what_lies_between_them() -> None:
    # given two generators far apart, whose images are ranked backwards within each
    scores = [0.0, 0.1, 0.2, 0.3, 4.0, 4.1, 4.2, 4.3]
    labels = [0.3, 0.2, 0.1, 0.0, 4.3, 4.2, 4.1, 4.0]
    groups = ["a"] * 4 + ["b"] * 4
    # when
    estimates = correlations(scores, labels, groups, resamples=50)
    # then
    assert estimates["srcc"].value is not None
    assert estimates["srcc"].value > 0.5
    assert estimates["srcc_within_groups"].value == pytest.approx(-1)
    assert estimates["srcc_within_groups"].interval == pytest.approx((-1, -1))


def test_a_group_without_a_correlation_is_left_out() -> None:
    scores = np.array([1.0, 2, 3, 1, 1, 1, 5, 6])
    labels = np.array([1.0, 2, 3, 1, 2, 3, 5, 6])
    groups = ["whole"] * 3 + ["constant"] * 3 + ["few"] * 2

    assert srcc_by_group(scores, labels, groups) == {"whole": pytest.approx(1)}
    estimate = correlations(scores[3:].tolist(), labels[3:].tolist(), groups[3:], resamples=5)["srcc_within_groups"]
    assert estimate.value is None
    assert estimate.reason is not None
    assert "no group has 3 images" in estimate.reason


@pytest.mark.parametrize(
    ("scores", "labels", "reason"),
    [
        ([], [], "0 scored images"),
        ([1.0, 2.0], [1.0, 2.0], "2 scored images"),
        ([2.0, 2.0, 2.0], [1.0, 2.0, 3.0], "all scores are equal"),
        ([1.0, 2.0, 3.0], [2.0, 2.0, 2.0], "all labels are equal"),
    ],
)
def test_what_cannot_be_computed_is_null_with_a_reason(scores: list[float], labels: list[float], reason: str) -> None:
    def no_constants(name: str) -> float:
        raise AssertionError(name)

    result = json.loads(json.dumps(as_json(correlations(scores, labels))), parse_constant=no_constants)

    for name in ("srcc", "plcc", "plcc_logistic", "krcc"):
        assert result[name] is None
        assert result[f"{name}_ci95"] is None
        assert reason in result["reasons"][name]
    assert result["srcc_within_groups"] is None


def test_resamples_without_a_correlation_do_not_make_an_interval_nan() -> None:
    estimates = correlations([1.0, 2.0, 4.0], [1.0, 1.0, 3.0], ["a"] * 3, resamples=200)

    for estimate in estimates.values():
        assert estimate.interval is not None
        assert all(math.isfinite(bound) for bound in estimate.interval)
