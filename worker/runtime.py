"""Opens what a worker process owns, and closes it in the opposite order."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import TYPE_CHECKING

from m3agiqa.contract import Decision, Failure
from m3agiqa.errors import Busy, ConfigError, NotOwed, QueueUnavailable, TaskRevoked
from m3agiqa.queue import keys
from m3agiqa.queue.connection import Connection
from m3agiqa.queue.ledger import Ledger
from m3agiqa.tenants import Tenants
from worker.celery_patches import transport
from worker.ops import loops, steps
from worker.ops.health import STALE_S, Health
from worker.ops.loops import STUCK_S, Loop
from worker.ops.watchdog import Watchdog
from worker.settings import Settings

if TYPE_CHECKING:
    from m3agiqa.policy import Policies
    from worker.delivery.handler import DeliveryHandler
    from worker.ops.metrics import Metrics
    from worker.score.handler import ScoreHandler

logger = logging.getLogger(__name__)

#: How many times M3AGIQA_REDIS_SILENCE_S a worker that stops waits for a Redis that does not answer.
SILENCES = 3
#: How many times M3AGIQA_SCORE_TIMEOUT_S a batch may take before it counts as hanging.
HANGING_AFTER = 2.0


class Runtime:
    """A worker of `queues` with `threads` threads. It works from the moment it is made until `close`.

    Raises:
        M3AGIQAError: a setting is wrong, or the model cannot be loaded.
    """

    def __init__(self, settings: Settings, queues: Collection[str], threads: int) -> None:
        self._stack = ExitStack()
        with ExitStack() as opening:
            opening.push(self._stack)
            self._open(settings, queues, threads)
            opening.pop_all()

    def _open(self, settings: Settings, queues: Collection[str], threads: int) -> None:
        self._ledger = ledger = Ledger(
            settings.redis.url,
            lease_s=settings.lease_s,
            longest_run_s=settings.effective_visibility_timeout_s,
            max_lost_runs=settings.max_lost_runs,
            result_ttl_s=settings.result_ttl_s,
            dead_letters_bytes=settings.dead_letters_mib * 2**20,
            dead_letters_ttl_s=settings.dead_letters_ttl_s,
            silence_s=settings.redis_silence_s,
            tenants=Tenants(listed=settings.tenants == "listed"),
            on_failure=_on_failure(settings),
        )
        self._stack.callback(ledger.close)
        metrics = _metrics(self._stack, settings, queues, threads, lambda: len(ledger.held()))
        threads = max(1, threads // len(queues))
        checks: list[Callable[[], bool]] = []
        self._delivery = _delivery(settings, ledger, threads, metrics) if keys.DELIVER_QUEUE in queues else None
        self._scoring: ScoreHandler | None = None
        if keys.SCORE_QUEUE in queues:
            # Imported here, because a worker that only delivers has no model.
            from worker.score.opening import open_scoring

            self._scoring = handler = open_scoring(self._stack, settings, ledger, threads, metrics)
            checks.append(lambda: handler.batcher.alive(HANGING_AFTER * settings.score_timeout_s))
        at_once = self._scoring is not None

        def alive() -> bool:
            return all(check() for check in checks)

        running = loops.ledger_loops(ledger, alive, at_once=at_once)
        running.append(loops.presence_loop(ledger, alive, list(queues), settings.model if at_once else ""))
        self._stack.callback(Loop.stop, running)
        checks += [lambda loop=loop: loop.alive for loop in running]  # type: ignore[misc]

        #: Whether Celery takes messages: from `ready` until `stopping`.
        self._takes = False
        checks.append(lambda: not self._takes or transport.idle_s() < STUCK_S)

        asking = Connection(settings.redis.url, patience_s=0, silence_s=settings.redis_silence_s)
        self._stack.callback(asking.close)
        self._watchdog = Watchdog(
            ledger,
            alive,
            growth_limit_bytes=settings.memory_growth_limit_mib * 2**20,
            answers=asking.answers,
            silence_s=SILENCES * settings.redis_silence_s,
        )
        self._stack.callback(self._watchdog.stop)
        self._consumes: Callable[[], bool] = lambda: False
        self._health: Health | None = None
        if settings.health_dir is not None:
            self._health = Health(
                settings.health_dir,
                list(queues),
                alive=alive,
                working=lambda: (
                    self._consumes() and transport.idle_s() < STALE_S and not any(loop.refused for loop in running)
                ),
            )
            self._stack.callback(self._health.stop)

    def ready(self, consumes: Callable[[], bool]) -> None:
        """Say that Celery takes tasks from now on, while `consumes` returns true."""
        self._consumes, self._takes = consumes, True
        if self._health is not None:
            self._health.ready()

    def stopping(self) -> None:
        """Say that Celery takes no more tasks, and ends once it has finished those it has."""
        self._takes = False
        self._watchdog.drain()

    def interrupt(self) -> None:
        """End the process at once."""
        self._watchdog.interrupt()

    def score(self, task: str) -> str:
        """Run a task of the score queue. Returns what was done, for the log."""
        assert self._scoring is not None, "a worker takes what its queues hold"
        return _told(self._scoring.run, task)

    def deliver(self, task: str) -> str:
        """Run a task of the deliver queue. Returns what was done, for the log."""
        assert self._delivery is not None, "a worker takes what its queues hold"
        return _told(self._delivery.run, task)

    def revoked(self, task: str) -> None:
        """End a task that an operator took back."""
        if ":" not in task and self._scoring is not None:
            _told(self._scoring.revoke, task)
        else:
            _told(self._bury_revoked, task)

    def _bury_revoked(self, task: str) -> None:
        with self._ledger.claim(task) as claim:
            claim.bury(TaskRevoked())

    def close(self) -> None:
        self._stack.close()


def _told(run: Callable[[str], str | None], task: str) -> str:
    """Run a task and return what came of it. In any case the ledger knows, so Celery may drop the message."""
    try:
        return run(task) or ""
    except NotOwed as error:
        return str(error)
    except Busy as busy:
        steps.failed(Failure.from_error(busy))
        return f"{busy}, again in {busy.delay_s:.1f} s"
    except QueueUnavailable as error:
        steps.failed(Failure.from_error(error))
        logger.error("a task comes again: %s", error)
        return f"comes again: {error}"


_current: Runtime | None = None


@contextmanager
def as_current(runtime: Runtime) -> Iterator[None]:
    """Have `current` return this runtime inside the block."""
    global _current
    _current = runtime
    try:
        yield
    finally:
        _current = None


def current() -> Runtime:
    """The runtime of this process: Celery's tasks have no other way to reach it."""
    assert _current is not None, "tasks come only to a worker that has started"
    return _current


def _on_failure(settings: Settings) -> Callable[[str | None], Decision]:
    """What is decided about a request beyond its tenant's limits, by the policy of a name or the default one."""

    @cache
    def policies() -> Policies:
        # Imported here, because a worker that only delivers needs policies for this alone.
        from m3agiqa.policy import Policies

        return Policies(settings.policy)

    def decide(policy: str | None) -> Decision:
        try:
            return policies().on_failure(policy)
        except ConfigError:
            return Decision.REVIEW

    return decide


def _metrics(
    stack: ExitStack, settings: Settings, queues: Collection[str], threads: int, busy: Callable[[], int]
) -> Metrics | None:
    """What counts for Prometheus; served before the model is loaded, so that a port that is taken is known at once."""
    if settings.metrics_port is None:
        return None
    from worker.ops.metrics import Metrics, serving

    metrics = Metrics(queues, threads, busy)
    stack.enter_context(serving(metrics.registry, str(settings.metrics_address), settings.metrics_port))
    return metrics


def _delivery(settings: Settings, ledger: Ledger, threads: int, metrics: Metrics | None) -> DeliveryHandler:
    from worker.delivery.handler import LONGEST_DELAY_S, DeliveryHandler
    from worker.delivery.sender import Sender
    from worker.shares import Shares

    if not settings.webhook_secrets and not any(settings.webhook_host_secrets.values()):
        logger.warning(
            "no webhook secret is set: every callback becomes a dead letter, as none is sent unsigned, but those of "
            "tenants that have secrets; set M3AGIQA_WEBHOOK_SECRETS"
        )
    shares = Shares(
        threads,
        per_server=settings.deliver_max_per_host,
        slow_share=settings.slow_share,
        longest_delay_s=LONGEST_DELAY_S,
    )
    return DeliveryHandler(ledger, Sender(settings, shares), settings.deliver_retry_delays_s, metrics)
