"""Bounds hold as often as they say, for any share and any chances."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from m3agiqa.report import bounds

SHARES = st.floats(0.001, 0.999)


def test_an_exact_bound_is_the_share_at_which_so_few_hits_become_improbable() -> None:
    bound = float(bounds.at_most(3, 100, 0.05))
    assert stats.binom.cdf(3, 100, bound) == pytest.approx(0.05)
    assert float(bounds.at_least(97, 100, 0.05)) == pytest.approx(1 - bound)


def test_no_image_leaves_everything_possible() -> None:
    assert (float(bounds.at_most(0, 0, 0.05)), float(bounds.at_least(0, 0, 0.05))) == (1, 0)
    nothing = np.zeros(0)
    assert bounds.weighted_at_most(nothing.astype(bool), nothing, 0.05) == 1
    assert bounds.weighted_at_least(nothing.astype(bool), nothing, 0.05) == 0


@given(SHARES, st.integers(1, 400))
def test_an_exact_bound_is_wrong_as_seldom_as_it_says(share: float, count: int) -> None:
    hits = np.arange(count + 1)
    is_wrong = bounds.at_most(hits, count, 0.05) < share
    assert stats.binom.pmf(hits, count, share)[is_wrong].sum() <= 0.05 + 1e-9


@pytest.mark.parametrize(("allowed", "needed"), [(0.01, 299), (0.05, 59), (0.1, 29)])
def test_the_number_of_images_that_is_needed_without_a_hit(allowed: float, needed: int) -> None:
    assert bounds.count_needed(allowed, 0.05) == needed
    assert not bounds.is_shown(0, needed - 1, allowed, 0.05)


def test_no_number_of_images_shows_what_the_next_ones_cannot_keep() -> None:
    # given that even one hit among the next 19 is too many, and the 20th best of ours is not below theirs often enough
    assert bounds.count_needed(0.01, 0.05, upcoming=19) == 19 * 19
    assert bounds.count_needed(1e-9, 1e-9, upcoming=10_000) is None


@pytest.mark.parametrize("allowed", [0.2, 0.4])
def test_the_share_of_the_next_images_is_kept_in_every_order_but_few(allowed: float) -> None:
    # given every order in which 6 images of ours and 5 of theirs can lie, hits first
    ours, theirs, error, broken, orders = 6, 5, 0.3, 0, 0
    for places in itertools.combinations(range(ours + theirs), ours):
        orders += 1
        mine = np.zeros(ours + theirs, dtype=bool)
        mine[list(places)] = True
        # when the threshold rises as far as our hits allow
        reach = 0
        for end in range(1, ours + theirs + 1):
            if not bounds.is_shown(int(mine[:end].sum()), ours, allowed, error, upcoming=theirs):
                break
            reach = end
        broken += (~mine[:reach]).sum() > allowed * theirs
    # then theirs has too many in few of the orders, all of which are equally probable
    assert 0 < broken / orders <= error


def test_equal_weights_give_nearly_the_exact_bound() -> None:
    is_hit = np.arange(400) < 4
    exact = float(bounds.at_most(4, 400, 0.05))
    assert exact < bounds.weighted_at_most(is_hit, np.full(400, 7.0), 0.05) < 1.5 * exact


@settings(max_examples=25, deadline=None)
@given(st.sampled_from([0.02, 0.2, 0.5, 0.9]), st.floats(0.05, 1), st.integers(0, 2**32 - 1))
def test_betting_against_a_true_share_seldom_wins(share: float, floor: float, seed: int) -> None:
    # given images whose chances have to do with being a hit
    random = np.random.default_rng(seed)
    wins = 0
    for _ in range(40):
        is_hit = random.random(120) < share
        chances = np.where(is_hit, random.choice([floor, 1.0], 120), random.choice([floor, 0.5], 120))
        # the largest weight of the rule is known
        drawn = (random.random(120) < chances) | (np.arange(120) == 0)
        chances[0], is_hit[0] = floor, False
        wins += bounds.against(share, is_hit[drawn][1:], 1 / chances[drawn][1:]) >= math.log(20)
    # then 20 to 1 is won about 2 times of 40, and 9 times with a probability below 1 in 10,000
    assert wins <= 9


@given(st.lists(st.booleans(), min_size=1, max_size=60), SHARES, SHARES, st.integers(0, 99))
def test_more_is_said_against_a_higher_share(hits: list[bool], one: float, other: float, seed: int) -> None:
    weights = np.random.default_rng(seed).uniform(0.1, 10, len(hits))
    low, high = sorted((one, other))
    is_hit = np.asarray(hits)
    assert bounds.against(low, is_hit, weights) <= bounds.against(high, is_hit, weights) + 1e-9


@given(st.lists(st.booleans(), min_size=2, max_size=60), st.integers(0, 99), st.floats(0.01, 100))
def test_neither_the_order_nor_the_unit_of_chances_matters(hits: list[bool], seed: int, unit: float) -> None:
    random = np.random.default_rng(seed)
    weights, is_hit, order = random.uniform(0.1, 10, len(hits)), np.asarray(hits), random.permutation(len(hits))
    first = bounds.weighted_at_most(is_hit, weights, 0.05)
    assert bounds.weighted_at_most(is_hit[order], unit * weights[order], 0.05) == pytest.approx(first, rel=1e-3)
    assert bounds.weighted_at_least(is_hit, weights, 0.05) <= first


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=20), SHARES)
def test_all_numbers_of_hits_at_once_say_the_same(weights: list[float], share: float) -> None:
    each = bounds.against_each(share, np.asarray(weights))
    ones = [
        bounds.against(share, np.arange(len(weights)) < hits, np.asarray(weights)) for hits in range(len(weights) + 1)
    ]
    assert each.tolist() == pytest.approx(ones, abs=1e-9)
