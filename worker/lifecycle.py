"""What happens when a worker starts and stops.

Everything is ready before the first message is taken, and stands until the last task has ended: Celery sends
`celeryd_after_setup` before it connects, and `worker_shutdown` after its pool is empty.
"""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from celery import signals
from celery.concurrency import thread
from kombu.transport import TRANSPORT_ALIASES

from m3agiqa.contract import Failure
from m3agiqa.errors import ConfigError, M3AGIQAError
from m3agiqa.jobs import Job, Scores
from producers import keys
from worker.batcher import Batcher
from worker.health import Health
from worker.reporting import setup_sentry
from worker.settings import Settings
from worker.store import Renewer, Store, Sweeper
from worker.watchdog import Watchdog

logger = logging.getLogger(__name__)

#: Seconds for a batch of golden pictures; kernels are compiled in the first one.
START_TIMEOUT_S = 900.0
#: Seconds after which a thread must leave the interpreter to another that wants it, a tenth of Python's own. The one
#: that scores waits for the GPU hundreds of times a batch, and after each time for threads that fetch.
_SWITCH_INTERVAL_S = 0.0005
#: One of so many threads may wait for a picture that takes long to decode; the others are for everybody else.
SLOW_SHARE = 4
#: What workers ask each other as they start, what Flower and `celery inspect` show, and what Flower lives on.
ALLOWED_COMMANDS = frozenset(
    {
        "hello", "ping", "clock", "stats", "active", "active_queues", "registered", "reserved", "scheduled", "revoked",
        "conf", "report", "query_task", "enable_events", "heartbeat",
    }
)  # fmt: skip
#: A batch that outlives the deadline of those in it this many times will never end.
HANGING_AFTER = 2.0

#: Run in the reverse of the order they were added in.
_on_stop: list[Callable[[], None]] = []
_on_ready: list[Callable[[], None]] = []


def connect() -> None:
    """Let a worker that starts from now on do so with what is below."""
    signals.celeryd_init.connect(_check_messages)
    signals.celeryd_init.connect(_keep_urls_to_ourselves)
    signals.celeryd_init.connect(_report_errors)
    signals.celeryd_after_setup.connect(_start)
    signals.worker_ready.connect(_ready)
    signals.worker_shutdown.connect(_stop)


def _check_messages(**_: Any) -> None:
    # In the worker alone: producers and Flower take nothing from the lists.
    TRANSPORT_ALIASES.update(dict.fromkeys(("redis", "rediss"), "worker.broker:Transport"))


def _keep_urls_to_ourselves(**_: Any) -> None:
    """urllib3 logs a URL as a whole, and a server's headers, where these are malformed."""
    logging.getLogger("urllib3").setLevel(logging.ERROR)


def _report_errors(**_: Any) -> None:
    """Before Celery imports what Sentry's integration replaces."""
    with _or_end():
        settings = Settings.from_environment()
        setup_sentry(settings)
        if not settings.remote_control:
            _refuse_commands()


def _refuse_commands() -> None:
    """Forget the commands with which whoever reaches Redis could end a worker, or have it take no more tasks."""
    from celery.worker.control import Panel

    for name in list(Panel.data):
        if name not in ALLOWED_COMMANDS:
            del Panel.data[name]


def _start(instance: Any, **_: Any) -> None:
    """Build what the tasks need."""
    with _or_end():
        settings = Settings.from_environment()
        queues = list(instance.app.amqp.queues.consume_from)
        _check_command_line(instance, queues, settings)
        _serve(instance.app, queues, settings, instance.concurrency)


@contextmanager
def _or_end() -> Iterator[None]:
    """End the process with a message that says what is wrong."""
    try:
        yield
    except M3AGIQAError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        # Celery swallows every Exception here, and would go on without what the tasks need.
        raise SystemExit(1) from None
    except Exception:
        logger.exception("the worker cannot start")
        raise SystemExit(1) from None


def _check_command_line(instance: Any, queues: Iterable[str], settings: Settings) -> None:
    if instance.pool_cls is not thread.TaskPool:
        raise ConfigError("start the worker with -P threads: its tasks share one process, with the model in it")
    if keys.SCORE_QUEUE in queues and instance.concurrency < 2 * settings.max_batch:
        raise ConfigError(
            f"start the worker with -c {2 * settings.max_batch} or more, twice M3AGIQA_MAX_BATCH: "
            "one batch is fetched while another is scored"
        )


def _serve(app: Any, queues: list[str], settings: Settings, threads: int) -> None:
    from worker.tasks import hands

    store = Store(settings)
    _on_stop.append(store.close)
    checks: list[Callable[[], bool]] = []
    # Of a worker for both queues, neither takes all.
    threads = max(1, threads // len(queues))
    if keys.DELIVER_QUEUE in queues:
        _prepare_deliver(app, settings, store, threads)
    if keys.SCORE_QUEUE in queues:
        batcher = _prepare_score(app, settings, store, threads)
        checks.append(lambda: batcher.alive(HANGING_AFTER * settings.score_timeout_s))
    renewer = Renewer(store, hands.held, lambda: all(check() for check in checks))
    _on_stop.append(renewer.stop)
    sweeper = Sweeper(store)
    _on_stop.append(sweeper.stop)
    checks.append(lambda: sweeper.alive)

    def alive() -> bool:
        return all(check() for check in checks)

    growth_limit_bytes = settings.memory_growth_limit_mib * 2**20
    watchdog = Watchdog(store, alive, hands.held, growth_limit_bytes=growth_limit_bytes)
    _on_stop.append(watchdog.stop)
    if settings.health_dir is not None:
        health = Health(settings.health_dir, queues, alive)
        _on_stop.append(health.stop)
        _on_ready.append(health.ready)


def _prepare_deliver(app: Any, settings: Settings, store: Store, threads: int) -> None:
    from worker.courier import LONGEST_DELAY_S, Courier
    from worker.deliver import Sender
    from worker.shares import Shares

    if not settings.webhook_secrets and not any(settings.webhook_host_secrets.values()):
        logger.warning(
            "no webhook secret is set: every callback becomes a dead letter, as none is sent unsigned; "
            "set M3AGIQA_WEBHOOK_SECRETS"
        )
    shares = Shares(
        threads,
        per_server=settings.deliver_max_per_host,
        slow_share=settings.slow_share,
        longest_delay_s=LONGEST_DELAY_S,
    )
    app.tasks[keys.DELIVER_TASK].courier = Courier(settings, store, Sender(settings, shares))


def _prepare_score(app: Any, settings: Settings, store: Store, threads: int) -> Batcher:
    # Not at the top: a worker that only delivers has no model.
    from m3agiqa import golden
    from m3agiqa.policy import Policy
    from m3agiqa.profile import ModelProfile
    from m3agiqa.scorer import FakeScorer, load_scorer
    from worker.cache import ScoreCache, fingerprint
    from worker.decoding.budget import Budget
    from worker.decoding.pool import Decoders
    from worker.fetch import Fetcher
    from worker.moderator import LONGEST_DELAY_S, Moderator
    from worker.shares import Shares

    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    logger.info("loading model %s", settings.model)
    scoring = load_scorer(
        settings.model, settings.device, max_batch=settings.max_batch, progress=_logged(settings.model)
    )
    batcher = Batcher(scoring, max_batch=settings.max_batch, max_wait_s=settings.max_wait_ms / 1000)
    _on_stop.append(lambda: batcher.stop(settings.score_timeout_s))
    profile = None if isinstance(scoring, FakeScorer) else ModelProfile.load(settings.model)
    known = None if profile is None else golden.Golden.load(profile.golden)
    for line in golden.check(partial(_score_at_start, batcher), scoring.info, known, max_batch=settings.max_batch):
        logger.info(line)
    # What start-up left is there to stay: going through it would stop all threads for a part of a second.
    gc.collect()
    gc.freeze()
    cache = ScoreCache(store, fingerprint(scoring.info, profile.model_dump_json() if profile else ""))
    decoders = Decoders(
        settings.effective_decoders,
        cpu_s=settings.decode_timeout_s,
        waiting=max(1, threads // SLOW_SHARE),
        max_pixels=settings.max_pixels,
        cutter=scoring.cutter,
        expected=batcher.expected,
    )
    _on_stop.append(decoders.close)
    budget = Budget(settings.picture_budget_mib * 2**20)
    shares = Shares(threads, slow_share=settings.slow_share, longest_delay_s=LONGEST_DELAY_S)
    fetcher = Fetcher(settings, shares)
    app.tasks[keys.SCORE_TASK].moderator = Moderator(
        settings, store, cache, fetcher, decoders, budget, batcher, Policy.load(settings.policy)
    )
    return batcher


def _score_at_start(batcher: Batcher, jobs: Sequence[Job]) -> list[Scores | Failure]:
    return [future.result(START_TIMEOUT_S) for future in batcher.submit_together(jobs)]


def _logged(model: str) -> Callable[[float], None]:
    """Logs how much of a model is loaded, at each tenth."""
    tenths = 0

    def log(share: float) -> None:
        nonlocal tenths
        if int(10 * share) > tenths:
            tenths = int(10 * share)
            logger.info("loading model %s: %d %%", model, 10 * tenths)

    return log


def _ready(**_: Any) -> None:
    for action in _on_ready:
        action()


def _stop(**_: Any) -> None:
    while _on_stop:
        _on_stop.pop()()
