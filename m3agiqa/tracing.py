"""The caller's span of OpenTelemetry, where the caller uses it. Nothing here imports OpenTelemetry."""

from __future__ import annotations

import sys

from m3agiqa.contract import ScoreRequest


def traced(request: ScoreRequest) -> ScoreRequest:
    """The request with the caller's span, if there is one and the request names no other."""
    found = current_traceparent() if request.traceparent is None else None
    return request if found is None else request.model_copy(update={"traceparent": found})


def current_traceparent() -> str | None:
    """The current span as `traceparent` of W3C Trace Context; None without one. Whoever has a span has loaded the
    package already.
    """
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None
    span = trace.get_current_span().get_span_context()
    return f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}" if span.is_valid else None
