"""Opens what scores images: the model, loaded and tested, and all that leads to it."""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING

from m3agiqa import golden
from m3agiqa.contract import Failure
from m3agiqa.errors import ConfigError
from m3agiqa.policy import Policies
from m3agiqa.profile import ModelProfile
from m3agiqa.progress import by_tenths
from m3agiqa.queue.ledger import Ledger
from m3agiqa.scorer import FakeScorer, load_scorer
from worker.score.batcher import Batcher
from worker.score.cache import ScoreCache, fingerprint
from worker.score.decoding.budget import Budget
from worker.score.decoding.pool import Decoders
from worker.score.fetch import Fetcher
from worker.score.handler import LONGEST_DELAY_S, ScoreHandler
from worker.settings import Settings, variable
from worker.shares import Shares

if TYPE_CHECKING:
    from m3agiqa.jobs import Job, Scores
    from worker.ops.metrics import Metrics

logger = logging.getLogger(__name__)

#: Seconds that a batch of the start-up check may take; the first one compiles kernels.
_START_TIMEOUT_S = 900.0
#: Seconds after which a thread must leave the interpreter to another that wants it: a tenth of Python's default. The
#: thread that scores waits for the GPU hundreds of times a batch, and each time then for threads that fetch.
_SWITCH_INTERVAL_S = 0.0005
#: Threads for each one that may wait for a slow image to be decoded; the others serve other images.
_SLOW_SHARE = 4


def open_scoring(
    stack: ExitStack, settings: Settings, ledger: Ledger, threads: int, metrics: Metrics | None
) -> ScoreHandler:
    """What scores images with `threads` threads, its model loaded and tested; `stack` closes it.

    Raises:
        M3AGIQAError: a setting is wrong, or the model cannot be loaded.
    """
    with _blaming("policy"):
        policies = Policies(settings.policy, settings.shadow_policy)
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    logger.info("loading model %s", settings.model)
    with _blaming("model", "device"):
        log = partial(logger.info, "loading model %s: %d %%", settings.model)
        model = load_scorer(settings.model, settings.device, max_batch=settings.max_batch, progress=by_tenths(log))
    batcher = Batcher(model, max_batch=settings.max_batch, max_wait_s=settings.max_wait_ms / 1000)
    stack.callback(batcher.stop, settings.score_timeout_s)
    profile = None if isinstance(model, FakeScorer) else ModelProfile.load(settings.model)
    known = None if profile is None else golden.Golden.load(profile.golden)
    tolerance = golden.TOLERANCE if profile is None else profile.tolerance
    score = partial(_score_at_start, batcher)
    for line in golden.check(score, model.info, known, max_batch=settings.max_batch, tolerance=tolerance):
        logger.info(line)
    batcher.metrics = metrics  # from now on, as batches of the check are no images of anybody
    if metrics is not None:
        metrics.checked(model.info)
    # The garbage collector need not look again at what start-up made: looking stops all threads for a part of a second.
    gc.collect()
    gc.freeze()
    decoders = Decoders(
        settings.effective_decoders,
        cpu_s=settings.decode_timeout_s,
        waiting=max(1, threads // _SLOW_SHARE),
        max_pixels=settings.max_pixels,
        cutter=model.cutter,
        expected=batcher.expected,
    )
    stack.callback(decoders.close)
    shares = Shares(threads, slow_share=settings.slow_share, longest_delay_s=LONGEST_DELAY_S)
    described = fingerprint(model.info, profile.model_dump_json() if profile else "")
    return ScoreHandler(
        ledger=ledger,
        fetcher=Fetcher(settings, shares, ledger.connection),
        decoders=decoders,
        budget=Budget(settings.picture_budget_mib * 2**20),
        batcher=batcher,
        cache=ScoreCache(ledger.connection, described, ttl_s=settings.score_cache_ttl_s, metrics=metrics),
        policies=policies,
        retry_delays_s=settings.score_retry_delays_s,
        timeout_s=settings.score_timeout_s,
        echo=settings.echo_request,
        metrics=metrics,
    )


@contextmanager
def _blaming(*fields: str) -> Iterator[None]:
    """Name the settings whose values may be wrong in front of a ConfigError."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{' and '.join(map(variable, fields))}: {error}") from None


def _score_at_start(batcher: Batcher, jobs: Sequence[Job]) -> list[Scores | Failure]:
    return [future.result(_START_TIMEOUT_S) for future in batcher.submit_together(jobs)]
