"""Says what came of a task and how long its stages took, for the log and for Flower."""

from __future__ import annotations

from collections.abc import Mapping


def with_stages(said: str, timings_ms: Mapping[str, float]) -> str:
    """`said` and each stage's milliseconds as seconds: `accept (fetch 0.20, open 0.01, score 1.70 s)`.

    Flower's table shows some 50 characters of it.
    """
    stages = ", ".join(f"{stage} {ms / 1000:.2f}" for stage, ms in timings_ms.items())
    return f"{said} ({stages} s)" if stages else said
