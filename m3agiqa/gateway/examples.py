"""What OpenAPI shows as examples. They are made by the contract, so they follow it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from m3agiqa.client import State, Status
from m3agiqa.contract import (
    Aspect,
    AspectScore,
    Decision,
    ImageInfo,
    ModelInfo,
    PolicyRef,
    Rating,
    ScoreRequest,
    Verdict,
)
from m3agiqa.gateway.problems import Problem
from m3agiqa.queue.erasing import Erased

ID = "8c5ae5e08f2b4c31a8a0e2f1d3b7c946"
_AT = datetime(2026, 5, 4, 12, 0, 0, tzinfo=UTC)


def request() -> dict[str, Any]:
    asked = ScoreRequest(
        image_url="https://images.example/cat.png", prompt="a cat in the rain", aspects=(Aspect.QUALITY,)
    )
    return asked.model_dump(mode="json", include={"image_url", "prompt", "aspects"}) | {"metadata": {"user": "u-17"}}


def verdict() -> dict[str, Any]:
    told = Verdict(
        request_id=ID,
        status="scored",
        decision=Decision.ACCEPT,
        reasons=(),
        aspects={
            Aspect.QUALITY: AspectScore(
                score=3.4, rating=Rating.GOOD, description="The fur is sharp.", slices=4, cut_tokens=0
            )
        },
        policy=PolicyRef(name="default", version=1),
        model=ModelInfo(
            profile="published",
            base="base",
            adapters={Aspect.QUALITY: "adapter"},
            heads={Aspect.QUALITY: "head"},
            revisions={},
            dtype="bfloat16",
            engine="own",
            trained=True,
        ),
        image=ImageInfo(sha256="0" * 64, width=1024, height=1024, format="PNG"),
        timings_ms={"fetch": 81.2, "score": 940.5},
        attempt=1,
        submitted_at=_AT,
        scored_at=_AT,
        metadata={"user": "u-17"},
        error=None,
        tenant="acme",
    )
    return told.model_dump(mode="json")


def status() -> dict[str, Any]:
    return Status(request_id=ID, state=State.SUBMITTED, position=12, expected_s=1.5).model_dump(mode="json")


def erased() -> dict[str, Any]:
    told = Erased(
        request_id=ID, request=True, verdict=True, scores=True, image=False, dead_letters=(), samples=0, s3_objects=()
    )
    return told.model_dump(mode="json")


def problem() -> dict[str, Any]:
    return Problem(422, "request_invalid", "prompt: Field required").content
