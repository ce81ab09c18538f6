"""Traces from a producer to a callback, through real workers and a local collector that decodes what they send."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.trace import TracerProvider

from m3agiqa.errors import ConfigError
from producers import Client
from tests.support import ROOT, Worker, eventually, png
from tests.worker.conftest import Answer, Handler, HttpServer
from worker.ops import tracing

Serve = Callable[[Answer], HttpServer]


def answers(handler: Handler) -> None:
    """What a platform and a collector answer."""
    handler.reply(404 if handler.path == "/missing.png?secret" else 200, png() if handler.command == "GET" else b"")


def spans(collector: HttpServer) -> dict[str, Span]:
    """Spans that came, by request, and name."""
    found = {}
    for received in list(collector.received):
        export = ExportTraceServiceRequest.FromString(received.body)
        for span in (span for each in export.resource_spans for scope in each.scope_spans for span in scope.spans):
            found[span.name] = span
    return found


def attributes(span: Span) -> dict[str, object]:
    return {each.key: each.value.string_value or each.value.int_value for each in span.attributes}


def test_a_request_is_one_trace_from_producer_to_callback(
    client: Client, serve: Serve, worker_process: Callable[..., Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    # given workers that make spans, and a producer with a span of its own
    collector, platform = serve(answers), serve(answers)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    places = {"fetch_allow_hosts": platform.netloc, "deliver_allow_hosts": platform.netloc}
    workers = [worker_process(queue, tracing=True, **places) for queue in ("score", "deliver")]
    ours = TracerProvider(shutdown_on_exit=False).get_tracer("backend")
    image = {"image_url": f"{platform.url}/a.png?secret", "prompt": "a secret", "callback_url": f"{platform.url}/hook"}
    with ours.start_as_current_span("generate") as generate:
        client.submit(**image, request_id="traced")
    # when it is delivered
    wanted = {"admit", "m3agiqa.score", "fetch", "decode", "score", "publish", "m3agiqa.deliver", "deliver"}
    found = eventually(lambda: (seen := spans(collector)).keys() >= wanted and seen, "every span")
    # then all are of the producer's trace, tasks below its span, and stages below their task
    context = generate.get_span_context()
    assert {span.trace_id for span in found.values()} == {context.trace_id.to_bytes(16)}
    tasks = {name: found[name] for name in ("admit", "m3agiqa.score", "m3agiqa.deliver")}
    assert {span.parent_span_id for span in tasks.values()} == {context.span_id.to_bytes(8)}
    for name in ("fetch", "decode", "score", "publish"):
        assert found[name].parent_span_id == found["m3agiqa.score"].span_id, name
    assert found["deliver"].parent_span_id == found["m3agiqa.deliver"].span_id
    for span in tasks.values():
        assert attributes(span)["m3agiqa.request_id"] == "traced"
        assert span.start_time_unix_nano <= span.end_time_unix_nano
    # and the callback names the span that sent it
    [callback] = [received for received in platform.received if received.method == "POST"]
    sent_by = found["deliver"]
    assert callback.headers["traceparent"].startswith(f"00-{sent_by.trace_id.hex()}-{sent_by.span_id.hex()}-")

    # and when a request without a span fails
    collector.received.clear()
    client.submit(**image | {"image_url": f"{platform.url}/missing.png?secret"}, request_id="alone")
    wanted = {"m3agiqa.score", "deliver"}
    found = eventually(lambda: (seen := spans(collector)).keys() >= wanted and seen, "the second request's spans")
    # then its spans are a trace of their own, with the code of the failure
    [trace_id] = {span.trace_id for span in found.values()}
    assert trace_id != context.trace_id.to_bytes(16)
    assert attributes(found["m3agiqa.score"])["error.type"] == "fetch_refused"
    assert not found["m3agiqa.score"].parent_span_id
    # and no span shows a prompt or a URL
    assert not any(b"secret" in received.body for received in collector.received)
    assert [worker.terminate() for worker in workers] == [0, 0]


def test_everything_works_without_the_package() -> None:
    program = "import sys\nsys.modules['opentelemetry'] = None\n"
    program += (
        "import worker.lifecycle, worker.delivery.handler, m3agiqa.tracing\nfrom worker.ops import steps, tracing\n"
    )
    program += "with steps.step('x'): assert tracing.traceparent() is m3agiqa.tracing.current_traceparent() is None"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0


def test_a_worker_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ConfigError, match=r"M3AGIQA_TRACING: .* 'm3agiqa\[tracing\]'"):
        tracing.install()
    assert tracing.traceparent() is None
