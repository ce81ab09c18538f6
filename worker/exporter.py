"""Serves how the queue is, for Prometheus and for what scales workers: `python -m worker.exporter`.

`/metrics` is for Prometheus, `/queue` the same as JSON, and `/healthz` says that the exporter runs. It needs Redis
alone, and looks at it once for each request.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from m3agiqa import console, errors
from m3agiqa.errors import QueueUnavailable
from m3agiqa.queue import keys, overview
from m3agiqa.queue.connection import Connection
from m3agiqa.queue.overview import Overview
from worker.ops import logs
from worker.settings import Settings

logger = logging.getLogger(__name__)

#: Seconds for which a client may say nothing.
_SILENCE_S = 10.0

#: Help texts of what the scripts count; `overview.COUNTED` has the labels.
_COUNTERS: Mapping[str, str] = {
    "requests_admitted": "Requests that workers took in.",
    "requests_refused": "Entries of an inbox that are no valid request, or beyond a limit, by code of the failure.",
    "verdicts": "Verdicts published; a failed one has no decision.",
    "failures": "Verdicts of status failed, by code of the failure.",
    "requests_settled": "Requests of which nothing is owed any more.",
    "deliveries": "Deliveries that ended: delivered, or dead after the last attempt.",
    "dead_letters_made": "Dead letters made, by what was given up and why.",
    "leases_lost": "Runs of tasks whose worker vanished.",
}
#: What these counters show from the beginning, at 0: Prometheus sees an increase only from one number to another.
_FROM_ZERO: Mapping[str, Sequence[str]] = {
    "failures": [failure.code for failure in errors.tree()],
    "requests_refused": [failure.code for failure in errors.tree(errors.RequestInvalid)],
    "deliveries": [f"{kind}|{outcome}" for kind in ("callback", "s3") for outcome in ("delivered", "dead")],
    "leases_lost": ["score", "callback", "s3"],
}


class QueueCollector(Collector):
    """Looks at the queue each time that Prometheus asks."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def collect(self) -> Iterator[Metric]:
        try:
            found = overview.read(self._connection)
        except QueueUnavailable as error:
            logger.warning("%s", error)
            found = None
        yield _gauge("redis_up", "Whether Redis answers: 1 or 0.", found is not None)
        if found is not None:
            yield from _counters(found)
            yield from _queue_gauges(found)
            yield from _redis_gauges(found)


def _counters(found: Overview) -> Iterator[Metric]:
    for name, labels in overview.COUNTED.items():
        family = CounterMetricFamily(f"m3agiqa_{name}", _COUNTERS[name], labels=labels)
        counts = {f"{name}|{told}": 0 for told in _FROM_ZERO.get(name, [])} if labels else {name: 0}
        counts |= {field: count for field, count in found.counts.items() if field.partition("|")[0] == name}
        for field, count in counts.items():
            family.add_metric(field.split("|")[1:], count)
        yield family
    yield CounterMetricFamily(
        "m3agiqa_dead_letters_dropped",
        "Dead letters that were dropped to make room for others.",
        value=found.dead_letters_dropped,
    )


def _queue_gauges(found: Overview) -> Iterator[Metric]:
    yield _by("queue_waiting", "Requests that no worker has begun.", "priority", found.waiting)
    yield _by("queue_oldest_age_seconds", "How long the oldest of them has waited.", "priority", found.oldest_age_s)
    yield _gauge("deliveries_waiting", "Verdicts on the list of deliveries.", found.deliveries_waiting)
    yield _gauge("tasks_owed", "Tasks to score and to deliver that are not done.", found.tasks_owed)
    yield _gauge(
        "tasks_overdue", "Tasks that a worker should have looked after more than 10 s ago.", found.tasks_overdue
    )
    yield _gauge("leases_held", "Tasks that workers have.", found.leases_held)
    yield _by("dead_letters", "Dead letters that are kept, by code of the failure.", "code", found.dead_letters)
    yield _gauge("dead_letters_bytes", "Bytes of all dead letters.", found.dead_letters_bytes)
    text = "Bytes of images that lie in Redis beside their requests."
    yield _gauge("images_waiting_bytes", text, found.images_waiting_bytes)
    yield _gauge("unreadable_entries", "Entries of the ledger that cannot be read.", found.unreadable_entries)
    workers = {queue: found.workers_of(queue) for queue in (keys.SCORE_QUEUE, keys.DELIVER_QUEUE)}
    yield _by("workers", "Workers that said within 20 s that they are there.", "queue", workers)
    text = "Receivers whose latest attempt failed, within the last hour."
    yield _gauge("receivers_failing", text, len(found.receivers_failing))


def _redis_gauges(found: Overview) -> Iterator[Metric]:
    if found.redis_memory_bytes is not None:
        yield _gauge("redis_memory_bytes", "Memory that Redis takes.", found.redis_memory_bytes)
    if found.redis_memory_limit_bytes is not None:
        text = "Memory that Redis may take; 0 means no limit."
        yield _gauge("redis_memory_limit_bytes", text, found.redis_memory_limit_bytes)
    if found.redis_noeviction is not None:
        text = "Whether Redis drops nothing when its memory is full: 1 or 0."
        yield _gauge("redis_noeviction", text, found.redis_noeviction)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"m3agiqa_{name}", text, value=value)


def _by(name: str, text: str, label: str, values: Mapping[Any, float]) -> Metric:
    family = GaugeMetricFamily(f"m3agiqa_{name}", text, labels=[label])
    for value, number in values.items():
        family.add_metric([str(value)], number)
    return family


def _as_json(found: Overview) -> str:
    """All but the names of receivers and tenants: whoever reaches the exporter may read this."""
    return found.model_dump_json(exclude={"receivers_failing", "laned"})


def application(connection: Connection) -> Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]:
    """The WSGI application."""
    registry = CollectorRegistry()
    registry.register(QueueCollector(connection))

    def answer(path: str) -> tuple[str, str, bytes]:
        if path == "/metrics":
            return "200 OK", CONTENT_TYPE_LATEST, generate_latest(registry)
        if path == "/queue":
            try:
                return "200 OK", "application/json", _as_json(overview.read(connection)).encode()
            except QueueUnavailable as error:
                logger.warning("%s", error)
                return "503 Service Unavailable", "text/plain", b"Redis does not answer\n"
        if path == "/healthz":
            return "200 OK", "text/plain", b"ok\n"
        return "404 Not Found", "text/plain", b"/metrics, /queue or /healthz\n"

    def serve(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        status, kind, body = answer(environ["PATH_INFO"])
        start_response(status, [("Content-Type", kind), ("Content-Length", str(len(body)))])
        return [body]

    return serve


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Handler(WSGIRequestHandler):
    timeout = _SILENCE_S

    def log_message(self, *_: Any) -> None:
        """Nothing: Prometheus asks every few seconds."""


def make(connection: Connection, address: str, port: int) -> WSGIServer:
    """A server that answers once `serve_forever` is called. Raises OSError if it may not listen there."""
    return make_server(address, port, application(connection), _Server, _Handler)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the exporter. Returns its exit code, one of those in `console`."""
    return console.run(lambda: _run(argv), as_process=argv is None)


def _run(argv: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(prog="python -m worker.exporter", description="Serve how the queue is.")
    parser.add_argument("--address", default="127.0.0.1", help="where to listen (default: 127.0.0.1)")
    arguments = parser.parse_args(argv)
    settings = Settings.from_environment()
    logs.start(settings.log_format)
    # Prometheus waits 10 s for an answer.
    connection = Connection(settings.redis.url, patience_s=0, silence_s=min(5.0, settings.redis_silence_s))
    # A server that is asked to stop has done its work.
    with suppress(KeyboardInterrupt), closing(connection):
        make(connection, arguments.address, settings.exporter_port).serve_forever()
    return console.DONE


if __name__ == "__main__":
    sys.exit(main())
