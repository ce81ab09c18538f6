"""Starts and stops a worker, as Celery's signals say.

The runtime is there before the first message is taken and until the last task has ended: Celery sends
`celeryd_after_setup` before it connects, and `worker_shutdown` once its pool is empty.
"""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

from celery import signals
from celery.concurrency import thread

from m3agiqa.errors import ConfigError, M3AGIQAError, QueueUnavailable
from m3agiqa.queue import keys, server
from worker import runtime
from worker.celery_patches import sayings, transport
from worker.celery_patches.control import refuse_commands
from worker.ops import logs, quiet, steps, tracing
from worker.ops.reporting import setup_sentry
from worker.settings import Settings

logger = logging.getLogger(__name__)

#: Closed as the worker ends.
_open = ExitStack()


def connect() -> None:
    """Connect the functions below to Celery's signals, for a worker that starts in this process later."""
    signals.celeryd_init.connect(_prepare)
    signals.celeryd_after_setup.connect(_start)
    signals.worker_ready.connect(_ready)
    signals.task_revoked.connect(_revoked)
    signals.task_prerun.connect(_begin)
    signals.task_postrun.connect(_end)
    signals.worker_shutdown.connect(_stop)


def _prepare(instance: Any, **_: Any) -> None:
    """Prepare the process before Celery imports what Sentry's integration replaces."""
    # In a worker alone: Flower takes no messages.
    transport.install()
    # urllib3 logs whole URLs, and a server's headers, where they are malformed.
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    with _or_end():
        settings = Settings.from_environment()
        if settings.log_format == "json":
            sayings.install(instance)
        quiet.install(settings.redis.endpoint)
        setup_sentry(settings)
        if not settings.remote_control:
            refuse_commands()


def _start(instance: Any, **_: Any) -> None:
    """Check the command line and Redis, and make the runtime."""
    with _or_end():
        settings = Settings.from_environment()
        queues = list(instance.app.amqp.queues.consume_from)
        _check_command_line(instance, queues, settings)
        _check_redis(settings)
        if settings.tracing:
            _open.callback(tracing.install())
        worker = runtime.Runtime(settings, queues, instance.concurrency)
        _open.callback(worker.close)
        _open.enter_context(runtime.as_current(worker))
        signals.worker_shutting_down.connect(partial(_stopping, worker), weak=False)


@contextmanager
def _or_end() -> Iterator[None]:
    """End the process with a line that says what is wrong, if something is."""
    try:
        yield
    except M3AGIQAError as error:
        if logs.are_json():
            logger.critical("%s", error)
        else:
            print(f"error: {error}", file=sys.stderr, flush=True)
        # Celery would swallow an Exception here, and go on without a runtime.
        raise SystemExit(1) from None
    except Exception:
        logger.exception("the worker cannot start")
        raise SystemExit(1) from None


def _check_command_line(instance: Any, queues: Iterable[str], settings: Settings) -> None:
    if settings.shadow_of is not None:
        raise ConfigError("M3AGIQA_SHADOW_OF is for `python -m worker.shadow`; this worker would publish")
    if instance.pool_cls is not thread.TaskPool:
        raise ConfigError("start the worker with -P threads: its tasks share one process, with the model in it")
    if keys.SCORE_QUEUE in queues and instance.concurrency < 2 * settings.max_batch:
        raise ConfigError(
            f"start the worker without -c, or with -c {2 * settings.max_batch} or more, twice M3AGIQA_MAX_BATCH: "
            "one batch is fetched while another is scored"
        )


def _check_redis(settings: Settings) -> None:
    """Refuse a Redis that cannot hold the queue; the worker waits for one that is away."""
    with suppress(QueueUnavailable):
        server.fit(settings.redis.url, silence_s=settings.redis_silence_s)


def _ready(sender: Any, **_: Any) -> None:
    with _or_end():
        # Redis may have been away as the worker started.
        _check_redis(Settings.from_environment())
    _end_at_once(runtime.current(), signal.SIGQUIT)
    queues = list(sender.app.amqp.queues.consume_from)

    def consumes() -> bool:
        # It is None while the connection is lost.
        consumer = sender.task_consumer
        return consumer is not None and all(consumer.consuming_from(queue) for queue in queues)

    runtime.current().ready(consumes)


def _begin(task_id: str, **_: Any) -> None:
    steps.begin(task_id)


def _end(**_: Any) -> None:
    steps.end()


def _revoked(request: Any, **_: Any) -> None:
    runtime.current().revoked(request.id)


def _stopping(worker: runtime.Runtime, **_: Any) -> None:
    worker.stopping()
    _end_at_once(worker, signal.SIGINT)


def _end_at_once(worker: runtime.Runtime, number: signal.Signals) -> None:
    """End the process at once at this signal, where Celery would wait for its threads."""
    signal.signal(number, lambda *_: worker.interrupt())


def _stop(**_: Any) -> None:
    _open.close()
