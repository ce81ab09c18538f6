"""Thresholds keep their promise, as often as they say."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m3agiqa.bench.coverage import Near, Way, World, repeat
from m3agiqa.contract import Aspect
from m3agiqa.errors import DataError, UsageError
from m3agiqa.report.calibration import GRID, Goal, Rule, Sample, calibrate, estimate
from tests.m3agiqa.report.made import image

QUALITY, CORRESPONDENCE, _ = Aspect
FALSE_REJECT, CATCH = Goal
WORLD = World()


def drawn(count: int, seed: int = 0, near: Near | None = None) -> Sample:
    random = np.random.default_rng(seed)
    return Way("", near).sample(WORLD.draw(count, random), random)


def test_the_threshold_for_false_rejects_is_the_last_whose_bound_is_within() -> None:
    # given 400 good images at 0.005, 0.015, ... and 40 bad ones at 0
    sample = Sample(np.r_[np.arange(400) / 100 + 0.005, np.zeros(40)], np.arange(440) < 400, np.ones(440))
    found = calibrate(sample, FALSE_REJECT, 0.02)
    # then 3 of 400 may be rejected, and not 4: Clopper and Pearson's bounds are 1.93 % and 2.27 %
    assert found.position == 0.03
    assert found.rates[FALSE_REJECT].estimate == pytest.approx(3 / 400)
    assert (found.rates[FALSE_REJECT].low, found.rates[FALSE_REJECT].high) == (0, 0.02)
    assert found.rates[CATCH].estimate == 1
    assert found.rates[CATCH].low == pytest.approx(0.025 ** (1 / 40))


def test_the_threshold_for_a_catch_is_the_lowest_whose_bound_is_within() -> None:
    # given 29 bad images below 1, and 100 good ones above 3
    sample = Sample(np.r_[np.full(29, 0.995), np.full(100, 3.5)], np.arange(129) >= 29, np.ones(129))
    found = calibrate(sample, CATCH, 0.9)
    assert found.position == 1
    assert (found.rates[CATCH].low, found.rates[CATCH].high) == (0.9, 1)
    assert found.rates[FALSE_REJECT].estimate == 0


@pytest.mark.parametrize("near", [None, Near(floor=0.3)], ids=["all", "near"])
@pytest.mark.parametrize(("goal", "wanted"), [(FALSE_REJECT, 0.05), (CATCH, 0.7)])
def test_a_promise_is_kept_as_often_as_it_says(goal: Goal, wanted: float, near: Near | None) -> None:
    # given 150 samples of a source whose rates are known
    random = np.random.default_rng(1)
    pairs = ((WORLD.draw(500, random), WORLD.draw(50, random)) for _ in range(150))
    # when thresholds are calibrated
    tally = repeat(pairs, goal, wanted, Way("", near), random, WORLD.rate)
    # then few break their promise: more than 15 would with a probability below 1 in 1,000
    assert len(tally.thresholds) == 150
    assert tally.broken_in_truth <= 15


def test_a_promise_of_the_next_images_is_kept_by_them() -> None:
    random = np.random.default_rng(2)
    pairs = ((WORLD.draw(400, random), WORLD.draw(100, random)) for _ in range(150))
    tally = repeat(pairs, FALSE_REJECT, 0.05, Way("", is_of_next=True), random)
    assert tally.broken_on_others <= 15
    assert np.mean(tally.thresholds) > 1


def test_labels_near_a_threshold_without_their_chances_would_mislead() -> None:
    # given a source, and labels that are dense near 1.5
    sample = drawn(20_000, near=Near(floor=0.05))
    truth = WORLD.rate(FALSE_REJECT, 1.8)
    plain = Sample(sample.positions, sample.is_good, np.ones(len(sample.positions)))
    # then weights mend the rate, which is far off without
    assert estimate(plain, FALSE_REJECT, 1.8) > 2 * truth
    assert estimate(sample, FALSE_REJECT, 1.8) == pytest.approx(truth, rel=0.3)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 99), st.booleans(), st.floats(0.1, 0.3), st.floats(0.1, 0.3))
def test_who_allows_more_gets_more(seed: int, is_near: bool, one: float, other: float) -> None:
    sample = drawn(600, seed, Near(floor=0.5) if is_near else None)
    low, high = sorted((one, other))
    assert calibrate(sample, FALSE_REJECT, low).position <= calibrate(sample, FALSE_REJECT, high).position
    assert calibrate(sample, CATCH, 1 - low).position >= calibrate(sample, CATCH, 1 - high).position
    sure, surer = calibrate(sample, FALSE_REJECT, high), calibrate(sample, FALSE_REJECT, high, confidence=0.99)
    assert surer.position <= sure.position


@pytest.mark.parametrize(("goal", "wanted", "word"), [(FALSE_REJECT, 0.01, "accept"), (CATCH, 0.99, "reject")])
def test_too_few_labels_are_refused_with_the_number_that_it_takes(goal: Goal, wanted: float, word: str) -> None:
    few = Sample(np.full(298, 2.5), np.full(298, word == "accept"), np.ones(298))
    with pytest.raises(
        DataError, match=rf"takes 299 images labelled {word} \(about 299 labels in all\).* there are 298"
    ):
        calibrate(few, goal, wanted)
    enough = Sample(np.full(299, 2.505), np.full(299, word == "accept"), np.ones(299))
    assert calibrate(enough, goal, wanted).position == (2.5 if goal is FALSE_REJECT else 2.51)


def test_too_few_labels_of_unequal_chances_are_refused_with_a_number_that_does() -> None:
    # given too few labels, of two chances, none of a good image with a low score
    def sample(times: int) -> Sample:
        return Sample(np.full(40 * times, 3.0), np.arange(40 * times) % 2 == 0, np.tile([1, 1, 0.2, 0.2], 10 * times))

    with pytest.raises(DataError, match="takes about") as caught:
        calibrate(sample(1), FALSE_REJECT, 0.05)
    [needed] = re.findall(r"about (\d+) labels", str(caught.value))
    # then so many of them are enough, and half are not
    assert calibrate(sample(int(needed) // 40 + 1), FALSE_REJECT, 0.05).position == 3
    with pytest.raises(DataError):
        calibrate(sample(int(needed) // 80), FALSE_REJECT, 0.05)


def test_labels_of_one_kind_alone_promise_nothing_of_the_other() -> None:
    good = Sample(np.full(500, 3.0), np.ones(500, dtype=bool), np.ones(500))
    with pytest.raises(DataError, match=r"it takes 29 images labelled reject, even if .* there are 0, and 500 labels"):
        calibrate(good, CATCH, 0.9)
    uneven = Sample(good.positions, good.is_good, np.linspace(0.1, 1, 500))
    with pytest.raises(DataError, match="it takes images labelled reject; there are 0"):
        calibrate(uneven, CATCH, 0.9)
    assert np.isnan(calibrate(good, FALSE_REJECT, 0.01).rates[CATCH].estimate)


def test_what_cannot_be_promised_of_the_next_images_is_said() -> None:
    with pytest.raises(UsageError, match="unequal chances"):
        calibrate(drawn(200, near=Near()), FALSE_REJECT, 0.1, upcoming=100)
    with pytest.raises(DataError, match="takes 163 images labelled accept"):
        calibrate(Sample(np.full(9, 3.0), np.ones(9, dtype=bool), np.ones(9)), FALSE_REJECT, 0.02, upcoming=200)


def test_thresholds_of_several_aspects_keep_their_proportions() -> None:
    rule = Rule({QUALITY: 1.0, CORRESPONDENCE: 2 / 3})
    assert rule.position(image("a", quality=2.0, correspondence=3.0).scores) == 2
    assert rule.position(image("b", quality=4.0, correspondence=1.0).scores) == pytest.approx(1.5)
    assert rule.position(image("c", quality=4.0).scores) is None
    assert rule.thresholds(1.0, FALSE_REJECT) == {QUALITY: 1, CORRESPONDENCE: 0.6666}
    assert rule.thresholds(1.0, CATCH) == {QUALITY: 1, CORRESPONDENCE: 0.6667}


@given(st.floats(0, 5), st.floats(0, 5), st.sampled_from(GRID.tolist()), st.floats(0.05, 1))
def test_a_rounded_threshold_treats_no_image_wrongly(quality: float, other: float, height: float, share: float) -> None:
    rule = Rule({QUALITY: 1.0, CORRESPONDENCE: share})
    scores = image("a", quality=quality, correspondence=other).scores
    position = rule.position(scores)
    assert position is not None
    for goal in Goal:
        is_rejected = any(scores[aspect].score < at for aspect, at in rule.thresholds(height, goal).items())
        if goal is FALSE_REJECT:
            assert position < height or not is_rejected
        else:
            assert position >= height or is_rejected
