"""What the page decides is what the policy decides."""

from __future__ import annotations

import random
from typing import Any

from m3agiqa.contract import Aspect, Decision, Failure
from m3agiqa.policy import Policy, Thresholds
from m3agiqa.report.page.build import row
from m3agiqa.report.page.thumbnails import Thumbnail
from tests.m3agiqa.report.page.samples import judged, needs_node, run_js, scored

FAILURE = Failure(code="fetch_refused", message="404", retryable=False)
VALUES = (0.0, 0.5, 1.0, 1.5, 1.4999999999999998, 2.5, 3.3, 5.0)


def random_policy(draw: random.Random, aspects: list[Aspect]) -> Policy:
    def thresholds() -> Thresholds:
        low, high = sorted(draw.choice([*VALUES, draw.uniform(0, 5)]) for _ in range(2))
        return Thresholds(reject_below=low, review_below=high)

    decisions = [Decision.ACCEPT, Decision.REVIEW]
    return Policy(
        name="p",
        version=1,
        aspects={aspect: thresholds() for aspect in aspects},
        on_missing=draw.choice(decisions),
        on_failure=draw.choice(decisions),
    )


def random_case(draw: random.Random) -> tuple[dict[str, Any], dict[str, Any], Decision, list[list[str]]]:
    """An image as the page has it, a policy, what the policy decides, and the thresholds that it says are missed."""
    aspects = draw.sample(list(Aspect), draw.randint(1, 3))
    before, after = random_policy(draw, aspects), random_policy(draw, aspects)
    wanted = draw.sample(list(Aspect), draw.randint(1, 3))
    failure = draw.choice([None, None, FAILURE])
    there = [] if failure else draw.sample(wanted, draw.randint(1, len(wanted)))
    scores = {aspect: scored(draw.choice([*VALUES, draw.uniform(0, 5)])) for aspect in there}
    decision, reasons = before.decide(scores, wanted, failure)
    whole = failure or (FAILURE if len(there) < len(wanted) else None)
    image = judged("i", scores=scores, decision=decision, reasons=reasons, failure=whole)
    expected, said = after.decide(scores, wanted, failure)
    missed = [[words[0], words[3]] for words in map(str.split, said) if "<" in words]
    return row(image, Thumbnail(), None), after.model_dump(mode="json"), expected, missed


@needs_node
def test_the_page_decides_as_the_policy_does() -> None:
    draw = random.Random(20)
    cases = [random_case(draw) for _ in range(5000)]
    program = """console.log(JSON.stringify(GIVEN.map(([item, policy]) => {
        const { decision, missed } = Decide.decide(item, policy);
        return [decision, missed.map(([aspect, name]) => [aspect, name])];
    })));"""
    found = run_js(["decide.js"], program, [case[:2] for case in cases])
    assert {decision for _, _, decision, _ in cases} == set(Decision)
    for case, (decision, missed) in zip(cases, found, strict=True):
        assert (decision, sorted(missed)) == (case[2], sorted(case[3])), case


@needs_node
def test_flows_say_how_many_go_from_each_decision_to_each() -> None:
    items = [{"decision": "accept", "now": "review"}] * 2 + [{"decision": "reject", "now": "reject"}]
    flows = run_js(["decide.js"], "console.log(JSON.stringify(Decide.flows(GIVEN)));", items)
    assert flows["accept"] == {"accept": 0, "review": 2, "reject": 0}
    assert flows["reject"] == {"accept": 0, "review": 0, "reject": 1}
