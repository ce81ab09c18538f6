from __future__ import annotations

from worker.ops.stages import with_stages


def test_stages_are_told_in_seconds_in_their_order() -> None:
    said = with_stages("accept", {"fetch": 61_000.0, "open": 204.9, "score": 0.4})
    assert said == "accept (fetch 61.00, open 0.20, score 0.00 s)"


def test_where_no_stage_began_none_is_told() -> None:
    assert with_stages("review, expired", {}) == "review, expired"
