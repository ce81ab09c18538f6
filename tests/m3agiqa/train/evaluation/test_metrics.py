from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy import optimize, stats

from m3agiqa.train.evaluation.metrics import (
    as_json,
    correlations,
    fit_logistic,
    krcc,
    logistic,
    plcc,
    srcc,
    srcc_by_group,
)


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


def test_the_logistic_is_the_published_formula() -> None:
    # b1 (1/2 - 1 / (1 + exp(b2 (x - b3)))) + b4 x + b5, at its middle and one unit beside it
    x = np.array([2.0, 3.0, 1.0])
    side = 4 * (0.5 - 1 / (1 + math.exp(0.5)))

    assert logistic(x, 4, 0.5, 2, 0.1, 0.3) == pytest.approx([0.5, 0.6 + side, 0.4 - side])
    # However steep, it stays finite.
    assert logistic(np.array([-1e6, 1e6]), 2, 1e6, 0, 0, 1).tolist() == pytest.approx([0, 2])


def test_a_line_stays_a_line() -> None:
    scores = np.array([1.0, 2.0, 3.0, 4.5])
    labels = np.array([2.0, 2.5, 4.0, 4.5])
    slope, offset = np.polyfit(scores, labels, 1)

    # Too few points for a curve: the fit is the least squares line.
    assert fit_logistic(scores, labels)(scores) == pytest.approx(slope * scores + offset)


def test_six_points_are_enough_for_a_curve_and_five_are_not() -> None:
    scores = np.array([0.0, 1.0, 2.0, 3.0, 4.0, 5.0])
    labels = 5 / (1 + np.exp(-6 * (scores - 2.5)))

    def error(count: int) -> float:
        x, y = scores[:count], labels[:count]
        line = np.polyval(np.polyfit(x, y, 1), x)
        return float(((fit_logistic(x, y)(x) - y) ** 2).sum() / ((line - y) ** 2).sum())

    assert error(6) < 0.1
    assert error(5) == pytest.approx(1)


@pytest.mark.parametrize("seed", range(4))
def test_a_fit_never_has_more_squared_error_than_the_line(seed: int) -> None:
    scores, labels = related(12, noise=2, seed=seed)
    line = np.polyval(np.polyfit(scores, labels, 1), scores)

    fitted = fit_logistic(scores, labels)(scores)

    assert ((fitted - labels) ** 2).sum() <= ((line - labels) ** 2).sum() + 1e-9


def test_a_fit_that_is_worse_than_the_line_or_fails_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    # given a search that first ends at a constant 0, and then without an end
    scores, labels = related(12)
    ends = iter([((0.0, 1.0, 0.0, 0.0, 0.0), None), RuntimeError("no end")])

    def search(*_: object, **__: object) -> object:
        end = next(ends)
        if isinstance(end, RuntimeError):
            raise end
        return end

    monkeypatch.setattr(optimize, "curve_fit", search)
    # then the line is the fit, after both starts
    line = np.polyval(np.polyfit(scores, labels, 1), scores)
    assert fit_logistic(scores, labels)(scores) == pytest.approx(line)
    assert list(ends) == []


def test_an_interval_covers_95_percent_of_the_resamples() -> None:
    scores, labels = related(30)
    draws = np.random.default_rng(5).integers(30, size=(400, 30))
    values = [plcc(scores[draw], labels[draw]) for draw in draws]

    estimate = correlations(scores.tolist(), labels.tolist(), seed=5, resamples=400)["plcc"]

    assert estimate.interval == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])))


def test_within_groups_weighs_groups_alike_and_resamples_each_apart() -> None:
    # given a large group in order and a small one out of order
    scores = [*range(9), 0, 1, 2]
    labels = [*range(9), 0, 2, 1]
    groups = ["large"] * 9 + ["small"] * 3

    estimate = correlations(scores, labels, groups, resamples=300)["srcc_within_groups"]

    assert estimate.value == pytest.approx((1 + 0.5) / 2)
    # The large group is always in order, so the small one alone makes the interval: from -1 to 1 and 1 to 1, halved.
    assert estimate.interval == pytest.approx((0, 1))


def test_without_resamples_there_are_values_and_no_intervals() -> None:
    scores, labels = (values.tolist() for values in related(20))

    for estimate in correlations(scores, labels, ["a"] * 20, resamples=0).values():
        assert estimate.value is not None
        assert estimate.interval is None


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


def test_numbers_too_close_together_for_floats_have_a_reason_instead_of_a_correlation() -> None:
    estimate = correlations([1.0, 2.0, 3.0], [1e-200, 2e-200, 3e-200], resamples=5)["plcc"]

    assert (estimate.value, estimate.interval) == (None, None)
    assert estimate.reason is not None
    assert "too close together" in estimate.reason


def test_resamples_without_a_correlation_do_not_make_an_interval_nan() -> None:
    estimates = correlations([1.0, 2.0, 4.0], [1.0, 1.0, 3.0], ["a"] * 3, resamples=200)

    for estimate in estimates.values():
        assert estimate.interval is not None
        assert all(math.isfinite(bound) for bound in estimate.interval)
