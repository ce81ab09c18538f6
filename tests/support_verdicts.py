"""Verdicts as tests need them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from m3agiqa.contract import Aspect, AspectScore, Decision, Rating, Verdict


def scored(**scores: float) -> dict[Aspect, AspectScore]:
    """Scores by aspect: `scored(quality=1.5)`."""
    return {
        Aspect(name): AspectScore(score=score, rating=Rating.from_score(score), description="", slices=0, cut_tokens=0)
        for name, score in scores.items()
    }


def verdict(request_id: str, **fields: Any) -> Verdict:
    now = datetime.now(UTC)
    made: dict[str, Any] = {
        "request_id": request_id,
        "status": "scored",
        "decision": Decision.ACCEPT,
        "reasons": (),
        "aspects": {},
        "policy": None,
        "model": None,
        "image": None,
        "timings_ms": {},
        "attempt": 1,
        "submitted_at": now,
        "scored_at": now,
        "metadata": {},
        "error": None,
    }
    return Verdict(**{**made, **fields})
