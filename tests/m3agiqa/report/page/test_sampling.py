"""The sample to label is a probability sample: what it says of chances is what happens."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from m3agiqa.policy import Policy, Thresholds
from m3agiqa.report.page.sampling import propose
from tests.m3agiqa.report.page.samples import judged

POLICY = Policy(name="p", version=1, aspects={"quality": Thresholds(reject_below=1.5, review_below=2.5)})


def images(count: int) -> list:
    draw = random.Random(7)
    return [judged(f"i{number}", draw.uniform(0, 5)) for number in range(count)]


def test_each_image_is_drawn_as_often_as_its_chance_says() -> None:
    # given the same images under many seeds
    given, seeds = images(120), 400
    drawn: Counter[str] = Counter()
    chances: dict[str, float] = {}
    for seed in range(seeds):
        for name, proposal in propose(given, POLICY, labels=40, seed=seed).items():
            drawn[name] += 1
            assert chances.setdefault(name, proposal.chance) == proposal.chance
    # then every image has a chance, and is drawn as often: within 5 standard deviations
    assert len(chances) == len(given)
    for name, chance in chances.items():
        assert abs(drawn[name] - seeds * chance) <= 5 * (seeds * chance * (1 - chance)) ** 0.5 + 1e-9, name
    assert sum(chances.values()) == pytest.approx(40, rel=0.001)


def test_weights_of_one_over_the_chance_give_the_true_share() -> None:
    given = images(400)
    bad = {image.id for image in given if next(iter(image.scores.values())).score < 2}
    found = [
        sum(
            1 / proposal.chance
            for name, proposal in propose(given, POLICY, labels=100, seed=seed).items()
            if name in bad
        )
        for seed in range(200)
    ]
    assert sum(found) / len(found) == pytest.approx(len(bad), rel=0.05)


def test_the_order_tells_nothing_of_scores_so_a_part_of_the_sample_is_one_too() -> None:
    given = images(300)
    firsts = Counter(
        min((proposal.turn, proposal.chosen) for proposal in propose(given, POLICY, labels=60, seed=seed).values())[1]
        for seed in range(300)
    )
    # The first is as often a random one as the sample holds random ones: 60 % and what fell near by chance.
    assert 0.5 < firsts["random"] / 300 < 0.75


def test_a_proposal_says_which_coin_chose_it_and_those_near_a_threshold_are_likelier() -> None:
    proposals = propose(images(500), POLICY, labels=100, seed=3)
    assert {proposal.chosen for proposal in proposals.values()} == {"random", "near:quality"}
    assert sorted(proposal.turn for proposal in proposals.values()) == list(range(len(proposals)))
    near, far = judged("near", 1.51), judged("far", 4.5)
    both = {
        name: proposal.chance
        for seed in range(200)
        for name, proposal in propose([near, far, *images(300)], POLICY, labels=60, seed=seed).items()
    }
    assert both["near"] > 3 * both["far"] > 0


def test_the_same_seed_draws_the_same_whatever_the_order_of_images() -> None:
    given = images(50)
    assert propose(given, POLICY, labels=20, seed=1) == propose(given[::-1], POLICY, labels=20, seed=1)
    assert propose(given, POLICY, labels=20, seed=1) != propose(given, POLICY, labels=20, seed=2)


def test_a_few_images_are_all_certain() -> None:
    proposals = propose(images(5), POLICY, labels=1000, seed=0)
    assert [proposal.chance for proposal in proposals.values()] == [1.0] * 5


def test_without_thresholds_all_have_the_same_chance_and_without_a_score_none() -> None:
    observe = Policy.load("observe")
    proposals = propose([*images(100), judged("failed", None)], observe, labels=50, seed=0)
    assert "failed" not in proposals
    assert {proposal.chance for proposal in proposals.values()} == {0.3}
    assert propose([judged("failed", None)], observe, labels=5, seed=0) == {}


def test_of_several_with_one_id_the_first_counts() -> None:
    [proposal] = propose([judged("a", 4.9), judged("a", 1.5)], POLICY, labels=1000, seed=0).values()
    assert proposal.chosen == "random"
