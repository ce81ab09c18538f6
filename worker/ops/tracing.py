"""Spans of OpenTelemetry, where M3AGIQA_TRACING is set: a request's whole way is one trace.

The trace is the one that the request's `traceparent` names; a request without one begins a trace whose number comes
from its id, so that the runs of all workers meet in it. Without the setting nothing here imports OpenTelemetry. Its own
variables (OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_TRACES_SAMPLER ...) say where spans go, and how many.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from m3agiqa import __version__
from m3agiqa.errors import ConfigError, M3AGIQAError
from m3agiqa.queue import keys
from m3agiqa.queue.claim import Claim
from m3agiqa.queue.ledger import whoami
from m3agiqa.tracing import current_traceparent

#: What makes spans; None where nobody asked for them.
_tracer: Any = None
#: Number of the trace that the next span without a parent begins.
_trace_id: ContextVar[int | None] = ContextVar("trace_id", default=None)

_ADMITTED = re.compile(r"([0-9]{10}\.[0-9]{3}) admitted")


def install() -> Callable[[], None]:
    """Make spans in this process from now on; returns what sends the last ones, and waits up to ten seconds for it.

    Raises:
        ConfigError: OpenTelemetry is not installed.
    """
    global _tracer
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
    except ImportError:
        raise ConfigError("M3AGIQA_TRACING: install it with pip install 'm3agiqa[tracing]'") from None

    class Ids(RandomIdGenerator):
        def generate_trace_id(self) -> int:
            return _trace_id.get() or super().generate_trace_id()

    about = {"service.version": __version__, "service.instance.id": whoami()}
    name = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": "m3agiqa"}
    provider = TracerProvider(id_generator=Ids(), resource=Resource.create({**about, **name}), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    _tracer = provider.get_tracer("m3agiqa", __version__)

    def stop() -> None:
        global _tracer
        _tracer = None
        provider.shutdown()

    return stop


@contextmanager
def task(claim: Claim) -> Iterator[None]:
    """Have a span for a run of a task, of the trace of its request, inside the block."""
    if _tracer is None:
        yield
        return
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    request = claim.request
    # An empty context, unless the request names a span.
    parent = TraceContextTextMapPropagator().extract({"traceparent": request.traceparent or ""})
    begun = _trace_id.set(int(hashlib.sha256(request.name.encode()).hexdigest()[:32], 16))
    about = {
        "m3agiqa.request_id": request.name,
        "m3agiqa.kind": claim.kind,
        "m3agiqa.run": claim.run,
        "m3agiqa.attempt": claim.attempt,
    }
    name = keys.SCORE_TASK if claim.kind == "score" else keys.DELIVER_TASK
    try:
        _tell_admission(claim, parent, about)
        # An error's words may hold anything: `failed` notes its code.
        with _tracer.start_as_current_span(
            name, context=parent, attributes=about, record_exception=False, set_status_on_exception=False
        ):
            try:
                yield
            except M3AGIQAError as error:
                failed(error.code)
                raise
    finally:
        _trace_id.reset(begun)


def _tell_admission(claim: Claim, parent: Any, about: dict[str, Any]) -> None:
    """Make the span of admission in hindsight, from what the ledger noted: admission itself takes many at a time."""
    admitted = _ADMITTED.fullmatch(claim.history[0]) if claim.history else None
    if claim.kind != "score" or claim.run != 1 or admitted is None:
        return
    began_s, ended_s = claim.request.submitted_at.timestamp(), float(admitted[1])
    span = _tracer.start_span("admit", context=parent, attributes=about, start_time=int(min(began_s, ended_s) * 1e9))
    span.end(int(ended_s * 1e9))


@contextmanager
def span(name: str) -> Iterator[None]:
    """Have a span inside the block."""
    if _tracer is None:
        yield
        return
    with _tracer.start_as_current_span(name, record_exception=False, set_status_on_exception=False):
        yield


def failed(code: str) -> None:
    """Note in the current span why the task at hand fails."""
    if _tracer is None:
        return
    from opentelemetry.trace import Status, StatusCode, get_current_span

    get_current_span().set_attribute("error.type", code)
    get_current_span().set_status(Status(StatusCode.ERROR, code))


def traceparent() -> str | None:
    """The current span, for whoever gets what is sent; None without one."""
    return None if _tracer is None else current_traceparent()
