"""What the page decides is what the policy decides."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from m3agiqa.contract import Aspect, Decision, Failure, Verdict
from m3agiqa.deciding import decided_by
from m3agiqa.policy import Policy, Thresholds
from m3agiqa.report.judged import from_verdict
from m3agiqa.report.page.build import row
from m3agiqa.report.page.thumbnails import Thumbnail
from tests.m3agiqa.report.page.samples import needs_node, run_js, scored
from tests.support_verdicts import verdict

FAILURE = Failure(code="fetch_refused", message="404", retryable=False)
VALUES = (0.0, 0.5, 1.0, 1.5, 1.4999999999999998, 2.5, 3.3, 5.0)


def random_policy(draw: random.Random) -> Policy:
    def thresholds() -> Thresholds:
        low, high = sorted(draw.choice([*VALUES, draw.uniform(0, 5)]) for _ in range(2))
        return Thresholds(reject_below=low, review_below=high)

    decisions = [Decision.ACCEPT, Decision.REVIEW]
    return Policy(
        name="p",
        version=1,
        aspects={aspect: thresholds() for aspect in draw.sample(list(Aspect), draw.randint(1, 3))},
        on_missing=draw.choice(decisions),
        on_failure=draw.choice(decisions),
        sample_review=draw.choice([0.0, 0.5]),
        prompt_guard=draw.choice([None, 0.5]),
    )


def random_verdict(draw: random.Random) -> Verdict:
    wanted = draw.sample(list(Aspect), draw.randint(1, 3))
    whole = draw.random() < 0.2
    there = [] if whole else draw.sample(wanted, draw.randint(0, len(wanted)))
    failures = {} if whole else {aspect: FAILURE for aspect in wanted if aspect not in there}
    return verdict(f"i{draw.random()}").model_copy(
        update={
            "status": "failed" if whole or failures else "scored",
            "aspects": {aspect: scored(draw.choice([*VALUES, draw.uniform(0, 5)])) for aspect in there},
            "error": FAILURE if whole or failures else None,
            "failures": failures,
            "neutral": {aspect: draw.uniform(0, 5) for aspect in there},
        }
    )


def random_case(draw: random.Random) -> tuple[dict[str, Any], dict[str, Any], Decision, list[list[str]]]:
    """An image as the page has it, a policy, what the policy decides, and the thresholds that it says are missed.

    The page is written with other thresholds, as somebody who moved its sliders sees it.
    """
    policy, judged = random_policy(draw), random_verdict(draw)
    moved = random_policy(draw).aspects
    written = policy.model_copy(update={"aspects": {name: moved.get(name, Thresholds()) for name in policy.aspects}})
    image = from_verdict(judged)
    expected, said = decided_by(judged, policy)
    if draw.random() < 0.3:  # as `batch` writes it down
        image = replace(image, verdict=None)
        failure = None if image.scores else image.failure
        expected, said = policy.decide(image.scores, image.asked, failure)
    missed = [[words[0], words[3]] for words in map(str.split, said) if "<" in words]
    return row(image, written, Thumbnail(), None), policy.model_dump(mode="json"), expected, missed


@needs_node
def test_the_page_decides_as_the_policy_does() -> None:
    draw = random.Random(20)
    cases = [random_case(draw) for _ in range(5000)]
    program = """console.log(JSON.stringify(GIVEN.map(([item, policy]) => {
        Decide.all([item], policy);
        return [item.now, Decide.missed(item, policy).map(([aspect, name]) => [aspect, name])];
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
