"""A worker's own metrics, which Prometheus fetches where M3AGIQA_METRICS_PORT is set.

Counts begin at 0 with each worker. What must survive a restart is counted in Redis, see `m3agiqa.queue.overview`.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import product
from typing import TYPE_CHECKING, Any, Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from m3agiqa import console, memory
from m3agiqa.contract import ModelInfo, Verdict
from m3agiqa.errors import ConfigError
from m3agiqa.queue import keys

if TYPE_CHECKING:
    from m3agiqa.queue.claim import Claim

#: Receivers that have a count of their own; failures of all others are counted together.
MOST_HOSTS = 50
OTHER_HOSTS = "other"

#: Seconds for which whoever asks may say nothing.
_SILENCE_S = 10.0
#: Upper bounds of histograms: points of a score, seconds of a stage and of a delivery's delay, images of a batch.
_SCORES = [step / 4 for step in range(21)]
_STAGE_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
_DELAY_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200, 21_600, 86_400)
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)

#: How an attempt at a delivery ended: the receiver has the verdict, another attempt is due, or it was the last one.
Outcome = Literal["delivered", "retried", "dead"]


class Metrics:
    """What a worker of `queues` counts and measures, in a registry of its own that shows the metrics of these queues.

    Methods are safe in any thread. `busy` tells how many of the worker's `threads` have a task.
    """

    def __init__(self, queues: Collection[str], threads: int, busy: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        Gauge("m3agiqa_threads", "Threads that take tasks.", registry=self.registry).set(threads)
        Gauge("m3agiqa_threads_busy", "Threads that have a task.", registry=self.registry).set_function(busy)
        Gauge(
            "m3agiqa_process_memory_bytes", "RAM that the process occupies, without decoders.", registry=self.registry
        ).set_function(memory.resident_bytes)
        self._stages = Histogram(
            "m3agiqa_stage_seconds",
            "Seconds of each stage of an image; the model's stages are those of its whole batch.",
            ["stage"],
            buckets=_STAGE_S,
            registry=self.registry,
        )
        # A metric without a registry counts as well, and nobody sees it.
        self._make_scoring(self.registry if keys.SCORE_QUEUE in queues else None)
        self._make_delivering(self.registry if keys.DELIVER_QUEUE in queues else None)

    def _make_scoring(self, registry: CollectorRegistry | None) -> None:
        self._images = Counter(
            "m3agiqa_worker_images_total",
            "Verdicts that this worker published; a failed one has no decision.",
            ["status", "decision", "policy"],
            registry=registry,
        )
        self._shadow = Counter(
            "m3agiqa_worker_shadow_decisions_total",
            "Images that were scored, by their decision and by that of the policy in shadow.",
            ["decision", "shadow"],
            registry=registry,
        )
        self._failures = Counter(
            "m3agiqa_worker_failures_total",
            "Verdicts of status failed, by code of the failure.",
            ["code"],
            registry=registry,
        )
        self._scores = Histogram(
            "m3agiqa_score", "Scores of images, 0 to 5.", ["aspect", "model"], buckets=_SCORES, registry=registry
        )
        self._batches = Histogram(
            "m3agiqa_batch_images", "Images scored together.", buckets=_BATCHES, registry=registry
        )
        self._fill = Gauge(
            "m3agiqa_batch_fill_ratio",
            "Images of the latest batch as a part of M3AGIQA_MAX_BATCH.",
            registry=registry,
        )
        self._hits = Counter(
            "m3agiqa_score_cache_hits_total", "Images whose scores were remembered.", registry=registry
        )
        self._misses = Counter(
            "m3agiqa_score_cache_misses_total", "Images whose scores were not remembered.", registry=registry
        )
        self._model = Gauge(
            "m3agiqa_model_info", "The model that is loaded.", ["profile", "base", "dtype"], registry=registry
        )
        self._check = Gauge(
            "m3agiqa_startup_check", "Whether the model passed the start-up check: 1 or 0.", registry=registry
        )
        if registry is not None:
            registry.register(_GpuMemory())

    def _make_delivering(self, registry: CollectorRegistry | None) -> None:
        self._attempts = Counter(
            "m3agiqa_delivery_attempts_total",
            "Attempts to deliver a verdict: delivered, retried later, or dead.",
            ["kind", "outcome"],
            registry=registry,
        )
        for labels in product(("callback", "s3"), get_args(Outcome)):
            self._attempts.labels(*labels)  # shown from the beginning, as Prometheus sees no step from nothing to 1
        self._delays = Histogram(
            "m3agiqa_delivery_delay_seconds",
            "Seconds from a verdict to its delivery, by the clocks of both workers.",
            buckets=_DELAY_S,
            registry=registry,
        )
        self._receivers = Counter(
            "m3agiqa_receiver_failures_total",
            "Attempts that failed, by receiver; beyond 50 receivers, the others together.",
            ["host"],
            registry=registry,
        )
        self._hosts: set[str] = set()
        self._lock = threading.Lock()

    def checked(self, model: ModelInfo) -> None:
        """Note that a model passed the start-up check."""
        self._model.labels(model.profile, model.base, model.dtype).set(1)
        self._check.set(1)

    def looked_up(self, remembered: bool) -> None:
        """Count a look into the score cache."""
        (self._hits if remembered else self._misses).inc()

    def batch(self, images: int, max_batch: int) -> None:
        """Count a batch that was scored."""
        self._batches.observe(images)
        self._fill.set(images / max_batch)

    def published(self, verdict: Verdict, publish_ms: float) -> None:
        """Count all that a verdict tells; `publish_ms` are the milliseconds that Redis took for it."""
        decision = verdict.decision if verdict.status == "scored" else ""
        self._images.labels(verdict.status, decision, verdict.policy.name if verdict.policy else "").inc()
        if verdict.shadow is not None and decision:
            self._shadow.labels(decision, verdict.shadow.decision).inc()
        if verdict.error is not None:
            self._failures.labels(verdict.error.code).inc()
        for aspect, scored in verdict.aspects.items():
            self._scores.labels(aspect, verdict.model.profile if verdict.model else "").observe(scored.score)
        for stage, ms in (*verdict.timings_ms.items(), ("publish", publish_ms)):
            self._stages.labels(stage).observe(ms / 1000)

    def attempted(self, claim: Claim, receiver: str, outcome: Outcome) -> None:
        """Count an attempt to deliver. `receiver` is a host or a bucket, empty where the URL names none."""
        self._attempts.labels(claim.kind, outcome).inc()
        self._stages.labels("deliver").observe(time.monotonic() - claim.since)
        if outcome != "delivered":
            self._receivers.labels(self._label_of(receiver)).inc()
        # The verdict came through Redis: one that tells no time has no delay.
        elif (delay_s := _seconds_since(claim.verdict)) is not None:
            self._delays.observe(delay_s)

    def _label_of(self, receiver: str) -> str:
        """Strangers name receivers, so only so many become labels."""
        with self._lock:
            if receiver and len(self._hosts) < MOST_HOSTS:
                self._hosts.add(receiver)
            return receiver if receiver in self._hosts else OTHER_HOSTS


class _GpuMemory(Collector):
    """Asks torch, where it is loaded and uses a GPU."""

    def collect(self) -> Iterator[GaugeMetricFamily]:
        family = GaugeMetricFamily("m3agiqa_gpu_memory_bytes", "Memory that torch has on GPUs.", labels=["kind"])
        torch: Any = sys.modules.get("torch")
        # While another thread imports torch, it has no cuda yet.
        if getattr(torch, "cuda", None) is not None and getattr(torch.cuda, "is_initialized", bool)():
            devices = range(torch.cuda.device_count())
            family.add_metric(["allocated"], sum(map(torch.cuda.memory_allocated, devices)))
            family.add_metric(["reserved"], sum(map(torch.cuda.memory_reserved, devices)))
        yield family


def _seconds_since(verdict: str) -> float | None:
    """Seconds since a verdict, as JSON, was made; at least 0, as clocks differ. None if it does not tell."""
    with suppress(ValueError, TypeError, KeyError):
        scored_at = datetime.fromisoformat(json.loads(verdict)["scored_at"])
        return max(0.0, (datetime.now(UTC) - scored_at).total_seconds())
    return None


@contextmanager
def serving(registry: CollectorRegistry, address: str, port: int) -> Iterator[None]:
    """Answer Prometheus at an IP address of this host inside the block.

    Raises:
        ConfigError: nobody may listen there, or somebody else does.
    """
    try:
        server, thread = start_http_server(port, address, registry)
    except OSError as error:
        raise ConfigError(
            f"M3AGIQA_METRICS_PORT: cannot listen on {address}, port {port}: {console.reason(error)}"
        ) from None
    server.RequestHandlerClass = type("Handler", (server.RequestHandlerClass,), {"timeout": _SILENCE_S})  # type: ignore[arg-type]
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
