from __future__ import annotations

from dataclasses import replace

from m3agiqa.contract import Aspect, Decision
from m3agiqa.policy import Policy, Thresholds
from m3agiqa.report.changes import Changes
from m3agiqa.report.judged import Judged, from_verdict
from tests.support_verdicts import scored, verdict

QUALITY, CORRESPONDENCE, _ = Aspect
ACCEPT, REVIEW, REJECT = Decision
OLD = Policy(name="old", version=1, aspects={QUALITY: Thresholds(reject_below=2, review_below=3)})
NEW = Policy(
    name="new", version=1, aspects={QUALITY: Thresholds(review_below=2.5), CORRESPONDENCE: Thresholds(review_below=1)}
)


def image(model: str = "mini", **scores: float) -> Judged:
    return replace(from_verdict(verdict("a", aspects=scored(**scores))), model=model)


def test_what_changes_is_counted_by_decision_aspect_and_model() -> None:
    # given images that become milder, stricter, and stay, of two models
    changes = Changes()
    images = [
        image(quality=2.7, correspondence=5),  # review, then accept
        image(quality=1, correspondence=5),  # reject, then review
        image(quality=4, correspondence=0.5),  # accept, then review
        image(quality=2.2, correspondence=5),  # review in any case
        image(model="other", quality=4),  # accept in any case
    ]
    # then it says which flip
    assert [changes.compare(item, OLD, NEW) for item in images] == [True, True, True, False, False]
    # and counts them
    assert dict(changes.all.images) == {
        (REVIEW, ACCEPT): 1,
        (REJECT, REVIEW): 1,
        (ACCEPT, REVIEW): 1,
        (REVIEW, REVIEW): 1,
        (ACCEPT, ACCEPT): 1,
    }
    assert (changes.all.total, changes.all.stricter, changes.all.milder) == (5, 1, 2)
    quality, correspondence = changes.aspects[QUALITY], changes.aspects[CORRESPONDENCE]
    assert (quality.total, quality.stricter, quality.milder) == (5, 0, 2)
    assert (correspondence.total, correspondence.stricter, correspondence.milder) == (4, 1, 0)
    assert {name: moves.total for name, moves in changes.models.items()} == {"mini": 4, "other": 1}
    told = changes.to_json()
    assert told["decisions"]["review"] == {"accept": 1, "review": 1, "reject": 0}
    assert list(told["aspects"]) == ["quality", "correspondence"]
    assert told["models"]["other"]["images"] == 1


def test_the_stored_decision_does_not_matter() -> None:
    changes = Changes()
    stored = replace(image(quality=4), decision=REJECT)
    assert not changes.compare(stored, OLD, OLD)
    assert dict(changes.all.images) == {(ACCEPT, ACCEPT): 1}
