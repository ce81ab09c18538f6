"""The policy that a calibration leads to."""

from __future__ import annotations

from pathlib import Path

import pytest

from m3agiqa.contract import Aspect
from m3agiqa.errors import DataError
from m3agiqa.policy import Policy, Thresholds
from m3agiqa.report import proposal
from m3agiqa.report.calibration import Goal, Rate, Rule, Threshold
from tests.m3agiqa.report.made import image

QUALITY, CORRESPONDENCE, AUTHENTICITY = Aspect
DEFAULT = Policy.load("default")
RATES = {goal: Rate(0.5, 0.4, 0.6) for goal in Goal}


def found(position: float, *, review: bool = False, **proportions: float) -> proposal.Found:
    rule = Rule({Aspect(aspect): share for aspect, share in proportions.items()})
    return proposal.Found(Goal.CATCH, 0.9, rule, Threshold(position, RATES), with_review=review)


def test_thresholds_move_in_the_policys_proportions() -> None:
    assert proposal.rejecting(DEFAULT) == (QUALITY, CORRESPONDENCE)
    assert proposal.rule(DEFAULT, [QUALITY, CORRESPONDENCE]).proportions == {QUALITY: 1, CORRESPONDENCE: 1 / 1.5}
    # an aspect that rejects nothing takes the proportion at which it reviews
    assert proposal.rule(DEFAULT, [CORRESPONDENCE, AUTHENTICITY]).proportions == {
        CORRESPONDENCE: 1 / 1.5,
        AUTHENTICITY: 1,
    }
    observe = Policy.load("observe")
    assert proposal.rejecting(observe) == tuple(Aspect)
    assert proposal.rule(observe, [QUALITY, AUTHENTICITY]).proportions == {QUALITY: 1, AUTHENTICITY: 1}


def test_no_other_aspect_rejects_and_review_is_never_below_reject() -> None:
    new = proposal.proposed(DEFAULT, "mine", 4, found(2.7, quality=1.0), None, {})
    assert (new.name, new.version) == ("mine", 4)
    assert new.aspects[QUALITY] == Thresholds(reject_below=2.7, review_below=2.7)
    assert new.aspects[CORRESPONDENCE] == Thresholds(reject_below=0, review_below=2)
    held = proposal.proposed(DEFAULT, "mine", 4, found(1, quality=1.0), found(2, review=True, authenticity=1.0), {})
    assert held.aspects[QUALITY] == Thresholds(reject_below=1, review_below=1)
    assert held.aspects[AUTHENTICITY] == Thresholds(reject_below=0, review_below=2)


def test_a_policy_is_written_with_its_evidence_which_decides_nothing(tmp_path: Path) -> None:
    told = proposal.evidence([found(1, quality=1.0)], 0.95, {"model": "m@1"})
    new = proposal.proposed(DEFAULT, "mine", 1, found(1, quality=1.0), None, told)
    path = tmp_path / "mine.yaml"
    assert proposal.next_version(path) == 1
    proposal.write_policy(new, path)
    again = Policy.read(path)
    assert again == new
    assert again.evidence is not None
    assert again.evidence["promises"] == [
        "with 95 % confidence, at least 90 % of the images that a person would reject are rejected"
    ]
    assert again.evidence["model"] == "m@1"
    assert proposal.next_version(path) == 2
    # and the digest is that of a policy without
    assert again.ref == new.model_copy(update={"evidence": None}).ref


def test_what_is_no_policy_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("a: shopping list\n")
    with pytest.raises(DataError, match="would be replaced"):
        proposal.next_version(tmp_path / "mine.yaml")


def test_the_digest_of_verdicts_follows_scores_and_not_their_order() -> None:
    one, other = image("a", quality=1.0), image("b", quality=2.0)
    assert proposal.content_digest([one, other]) == proposal.content_digest([other, one])
    assert proposal.content_digest([one, other]) != proposal.content_digest([one, image("b", quality=2.5)])
