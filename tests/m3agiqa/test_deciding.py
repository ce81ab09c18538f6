from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import product

import pytest

from m3agiqa.contract import VERSION, Aspect, Decision, Failure, Redecided, ShadowDecision, Verdict
from m3agiqa.deciding import decided_by, redecided, with_shadow
from m3agiqa.jobs import Scores
from m3agiqa.policy import Policy, Thresholds
from m3agiqa.verdict import LocalRequest, assemble
from tests.m3agiqa.test_verdict import FAILURE, model, score

QUALITY, CORRESPONDENCE, AUTHENTICITY = Aspect


@pytest.fixture
def policy() -> Policy:
    return Policy.load("default")


STRICT = Policy(name="strict", version=1, aspects={QUALITY: Thresholds(reject_below=4.5, review_below=4.5)})
WHOLE = Failure(code="fetch_refused", message="404", retryable=False)


def outcomes() -> Iterator[tuple[Scores | Failure, list[Aspect]]]:
    """Every way in which scoring may end."""
    yield WHOLE, list(Aspect)
    for scored in product([None, 0.5, 1.7, 2.2, 5.0], repeat=2):
        both = dict(zip((QUALITY, CORRESPONDENCE), scored, strict=True))
        found = {aspect: score(value) for aspect, value in both.items() if value is not None}
        yield Scores(found, {aspect: FAILURE for aspect, value in both.items() if value is None}), list(both)
    yield Scores({AUTHENTICITY: score(1)}), [AUTHENTICITY]


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("by", ["default", "observe", "strict", "lenient", "sampled"])
def test_a_verdict_is_decided_anew_as_it_would_have_been(policy: Policy, by: str, trained: bool) -> None:
    lenient = {"on_missing": Decision.ACCEPT, "on_failure": Decision.ACCEPT}
    policies = {
        "default": policy,
        "observe": Policy.load("observe"),
        "strict": STRICT,
        "lenient": STRICT.model_copy(update=lenient),
        "sampled": policy.model_copy(update={"sample_review": 1.0, **lenient}),
    }
    for outcome, wanted in outcomes():
        # given verdicts of the same outcome by two policies
        request = LocalRequest()
        before, direct = (
            assemble(request, outcome, wanted, policy=each, model=model(trained=trained))
            for each in (policy, policies[by])
        )
        # when the first is decided anew, after it went over the wire
        at = datetime.now(UTC)
        anew = redecided(Verdict.model_validate_json(before.model_dump_json()), policies[by], at)
        # then it says what the other does, and what held before
        assert (anew.decision, set(anew.reasons), anew.policy) == (direct.decision, set(direct.reasons), direct.policy)
        assert anew.redecided == Redecided(decision=before.decision, policy=before.policy, at=at)
        assert (anew.type, anew.version) == ("verdict.redecided", VERSION)
        same = {"type", "decision", "reasons", "policy", "redecided"}
        assert anew.model_dump(exclude=same) == before.model_dump(exclude=same)


def test_a_verdict_of_version_1_1_that_failed_in_part_lacks_what_its_model_has(policy: Policy) -> None:
    # given a verdict of a model of two aspects that does not say which failed
    info = model().model_copy(update={"heads": {QUALITY: "q", CORRESPONDENCE: "c"}})
    made = assemble(
        LocalRequest(), Scores({QUALITY: score(4)}, {CORRESPONDENCE: FAILURE}), [], policy=policy, model=info
    )
    older = made.model_copy(update={"version": "1.1", "failures": {}})
    # then the other is taken for the one that failed
    assert decided_by(older, policy) == (Decision.REVIEW, ("correspondence has no score",))
    assert decided_by(older.model_copy(update={"aspects": {}}), policy)[1] == ("not scored: score_not_finite",)


def test_a_verdict_tells_what_a_policy_in_shadow_would_have_decided(policy: Policy) -> None:
    verdict = assemble(LocalRequest(), Scores({QUALITY: score(4)}), [QUALITY], policy=policy, model=model())
    shadowed = with_shadow(verdict, STRICT)
    assert (shadowed.decision, shadowed.policy) == (Decision.ACCEPT, policy.ref)
    assert shadowed.shadow == ShadowDecision(
        policy=STRICT.ref, decision=Decision.REJECT, reasons=("quality 4.00 < reject_below 4.50",)
    )
    # and not any more once it is decided anew
    assert redecided(shadowed, STRICT, datetime.now(UTC)).shadow is None
