"""Two sets of judged images, and a policy's way from one model to another."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3agiqa.contract import Aspect, Decision
from m3agiqa.errors import DataError
from m3agiqa.policy import Policy, Thresholds
from m3agiqa.train.evaluation.comparison import compare, pair
from m3agiqa.train.evaluation.translation import moved_threshold, to_old_scale, translate
from tests.m3agiqa.report.made import image

QUALITY = Aspect.QUALITY
SCORES = np.random.default_rng(0).uniform(0.5, 4, 200).tolist()


def test_images_are_matched_by_id_or_else_by_content() -> None:
    first = [image("a", quality=1.0, sha="1"), image("b", quality=1.0, sha="2"), image("b", quality=1.0, sha="3")]
    assert [(a.id, b.id) for a, b in pair(first, [image("a", quality=2.0), image("b", quality=2.0)]).pairs] == [
        ("a", "a")
    ]
    by_content = pair(first, [image("x", quality=2.0, sha="2"), image("y", quality=2.0, sha="9")])
    assert [(a.id, b.id) for a, b in by_content.pairs] == [("b", "x")]
    assert by_content.matched_by == "image_sha256"
    assert pair(first, [image("z", quality=2.0)]).matched_by is None


def test_a_shift_is_seen_with_its_interval() -> None:
    first = [image(str(number), quality=score) for number, score in enumerate(SCORES)]
    second = [image(str(number), quality=score + 0.5, model="new@1") for number, score in enumerate(SCORES)]
    result = compare(first, second, resamples=200)
    found = result["aspects"][QUALITY]
    assert found["mean_shift"] == pytest.approx(0.5)
    assert found["mean_shift_ci95"][0] < 0.5 < found["mean_shift_ci95"][1]
    assert found["shared"]["mean_shift_ci95"] == pytest.approx((0.5, 0.5))
    assert found["shared"]["srcc"] == pytest.approx(1)
    differ = result["decisions_that_differ"]
    assert (
        differ["n"]
        == sum(differ["by_change"].values())
        == sum(a.decision != b.decision for a, b in zip(first, second, strict=True))
    )
    assert differ["share_ci95"][0] < differ["share"] < differ["share_ci95"][1]
    assert (result["shared"], result["a"]["models"], result["b"]["models"]) == (200, {"old@1": 200}, {"new@1": 200})


def test_sets_that_share_nothing_are_compared_as_wholes() -> None:
    result = compare([image("a", quality=1.0)] * 2, [image("b", correspondence=1.0)], resamples=10)
    assert result["matched_by"] is None
    assert result["aspects"][QUALITY]["mean_shift"] is None
    assert result["aspects"][QUALITY]["shared"]["srcc"] is None
    assert result["decisions_that_differ"]["share"] is None
    assert result["a"]["decisions"][Decision.REJECT]["share"] == 1


@given(st.lists(st.tuples(st.floats(0, 5), st.floats(0, 5)), min_size=1, max_size=40), st.floats(0, 5), st.floats(0, 5))
def test_a_higher_threshold_never_moves_lower(pairs: list[tuple[float, float]], one: float, other: float) -> None:
    new, old = (np.asarray(values) for values in zip(*pairs, strict=True))
    low, high = sorted((one, other))
    assert moved_threshold(new, old, low) <= moved_threshold(new, old, high)
    means = to_old_scale(new, old)[1]
    assert (np.diff(means) >= -1e-9).all()
    assert means.min() >= old.min() - 1e-9


def test_thresholds_follow_a_model_whose_scores_mean_something_else() -> None:
    # given a new model that says half of what the old one said, and one more
    pairs = [
        (image(str(number), quality=score), image(str(number), quality=score / 2 + 1))
        for number, score in enumerate(SCORES)
    ]
    policy = Policy(name="p", version=1, aspects={QUALITY: Thresholds(reject_below=1.5, review_below=2.5)})
    new, moves = translate(policy, pairs, resamples=50)
    assert new.aspects[QUALITY].reject_below == pytest.approx(1.75, abs=0.02)
    assert new.aspects[QUALITY].review_below == pytest.approx(2.25, abs=0.02)
    assert [(move.field, move.is_out_of_reach) for move in moves] == [("reject_below", False), ("review_below", False)]
    assert all(move.interval[0] <= move.new <= move.interval[1] for move in moves)
    # and both decide alike
    for a, b in pairs:
        assert policy.decide(a.scores, [QUALITY])[0] == new.decide(b.scores, [QUALITY])[0]


def test_a_threshold_that_cannot_be_moved_is_refused_or_told() -> None:
    pairs = [(image(str(n), quality=score), image(str(n), quality=score)) for n, score in enumerate(SCORES)]
    high = Policy(name="p", version=1, aspects={QUALITY: Thresholds(review_below=4.5)})
    with pytest.raises(DataError, match=r"no score of the new model stands for review_below 4\.5"):
        translate(high, pairs, resamples=5)
    low = Policy(name="p", version=1, aspects={QUALITY: Thresholds(reject_below=0.2, review_below=0.2)})
    new, moves = translate(low, pairs, resamples=5)
    assert new.aspects[QUALITY].reject_below == 0
    assert all(move.is_out_of_reach for move in moves)
    with pytest.raises(DataError, match="29 images have a score of quality by both models; at least 30"):
        translate(low, pairs[:29])
