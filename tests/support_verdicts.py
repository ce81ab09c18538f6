"""A verdict as tests need it."""

from __future__ import annotations

from datetime import UTC, datetime

from m3agiqa.contract import Decision, Verdict


def verdict(request_id: str) -> Verdict:
    now = datetime.now(UTC)
    return Verdict(
        request_id=request_id,
        status="scored",
        decision=Decision.ACCEPT,
        reasons=(),
        aspects={},
        policy=None,
        model=None,
        image=None,
        timings_ms={},
        attempt=1,
        submitted_at=now,
        scored_at=now,
        metadata={},
        error=None,
    )
