from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from m3agiqa.batch import Record
from m3agiqa.contract import Aspect, Decision, Verdict
from m3agiqa.policy import Policy, Thresholds
from m3agiqa.report.anew import anew, decided_by, flipped
from m3agiqa.report.judged import from_records, from_verdict
from tests.m3agiqa.report.test_judged import record
from tests.support_verdicts import scored, verdict

QUALITY, CORRESPONDENCE, _ = Aspect
STRICT = Policy(name="strict", version=1, aspects={QUALITY: Thresholds(reject_below=4, review_below=4)})
MILD = Policy(name="mild", version=1, aspects={QUALITY: Thresholds(review_below=1)})
NOW = datetime.now(UTC)


def test_a_verdict_becomes_a_verdict() -> None:
    [made] = anew(from_verdict(verdict("a", aspects=scored(quality=3.5))), STRICT, NOW)
    assert isinstance(made, Verdict)
    assert (made.request_id, made.decision, made.policy) == ("a", Decision.REJECT, STRICT.ref)
    assert made.redecided is not None
    assert (made.redecided.decision, made.redecided.policy, made.redecided.at) == (Decision.ACCEPT, None, NOW)


def test_rows_of_a_batch_become_rows() -> None:
    # given an image of two aspects, of which one failed
    failed = {"score": None, "rating": None, "description": None, "error": "out_of_memory: too large"}
    rows = [record(), record(aspect=CORRESPONDENCE, **failed)]
    [item] = from_records(rows)
    # then the rows have another decision, and are otherwise as they were
    decision = {"decision": Decision.REJECT, "reasons": ("quality 3.50 < reject_below 4.00",)}
    assert anew(item, STRICT, NOW) == [
        row.model_copy(update={**decision, "policy": f"strict@{STRICT.ref.digest}"}) for row in rows
    ]


def test_a_row_that_failed_as_a_whole_is_decided_as_one() -> None:
    failed = {"score": None, "rating": None, "description": None, "error": "fetch_error: no such file"}
    [item] = from_records([record(aspects=(QUALITY,), **failed)])
    assert decided_by(item, STRICT) == (Decision.REVIEW, ("not scored: fetch_error",))


def test_what_flips_says_what_the_old_policy_would_have_said() -> None:
    item = replace(from_verdict(verdict("a", aspects=scored(quality=3.5), decision=Decision.REVIEW)))
    [made] = flipped(item, MILD, STRICT, NOW)
    assert isinstance(made, Verdict)
    assert made.redecided is not None
    assert (made.redecided.decision, made.redecided.policy) == (Decision.ACCEPT, MILD.ref)
    [row] = flipped(next(from_records([record(aspects=(QUALITY,))])), MILD, STRICT, NOW)
    assert isinstance(row, Record)
    assert row.decision is Decision.REJECT
