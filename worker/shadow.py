"""Scores a sample of what production scored with another profile, and tells the differences: `python -m worker.shadow`.

So a model is judged before it decides. While a shadow worker is there, `publish.lua` lays a share of requests with
their verdicts on a list of bounded length. Each goes through the same handler as in production, whose claim is one that
publishes nothing. The worker reads that list alone: its user of Redis has no right to anything else.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock, Semaphore
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram
from pydantic import BaseModel, ValidationError

from m3agiqa import console
from m3agiqa.contract import Aspect, Decision, ScoreRequest, Verdict
from m3agiqa.errors import Busy, ConfigError, DeviceLost, M3AGIQAError, QueueUnavailable
from m3agiqa.queue import keys
from m3agiqa.queue.claim import Claim
from m3agiqa.queue.ledger import Ledger
from worker import runtime
from worker.ops import logs, steps
from worker.ops.metrics import serving
from worker.ops.seldom import Seldom
from worker.score.handler import ScoreHandler
from worker.score.opening import open_scoring
from worker.settings import Settings

logger = logging.getLogger(__name__)

#: Value of M3AGIQA_SHADOW_OF that stands for every profile of production.
ANY = "on"
#: Seconds for which production lays samples aside after this worker asked for one, and for which it waits for one.
_ASKED_S, _WAIT_S = 10, 1
#: Upper bounds of the histogram of differences, points of a score.
_DIFFERENCES = (-2, -1, -0.5, -0.25, -0.1, -0.01, 0.01, 0.1, 0.25, 0.5, 1, 2)


class Side(BaseModel):
    """What one of the two said of an image."""

    profile: str | None
    policy: str | None
    decision: Decision
    scores: dict[Aspect, float]

    @classmethod
    def from_verdict(cls, verdict: Verdict) -> Side:
        return cls(
            profile=verdict.model and verdict.model.profile,
            policy=verdict.policy and verdict.policy.name,
            decision=verdict.decision,
            scores={aspect: scored.score for aspect, scored in verdict.aspects.items()},
        )


class Comparison(BaseModel):
    """A line of the file: what both said of the image of a request. It has neither prompt nor URL."""

    compared_at: datetime
    request_id: str
    production: Side
    shadow: Side
    #: Shadow minus production, points of the scale 0 to 5, of the aspects that both scored.
    differences: dict[Aspect, float]

    @classmethod
    def from_verdicts(cls, production: Verdict, shadow: Verdict) -> Comparison:
        theirs, ours = Side.from_verdict(production), Side.from_verdict(shadow)
        both = ours.scores.keys() & theirs.scores
        return cls(
            compared_at=datetime.now(UTC),
            request_id=production.name,
            production=theirs,
            shadow=ours,
            differences={aspect: ours.scores[aspect] - theirs.scores[aspect] for aspect in both},
        )


class _Sample(BaseModel):
    """What `publish.lua` lays aside."""

    request: dict[str, Any]
    verdict: Verdict


@dataclass(frozen=True)
class _Aside(Claim):
    """A claim that tells nobody."""

    verdicts: list[Verdict] = field(default_factory=list)

    def mark_scoring(self) -> None:
        """Nothing: nobody asks where a sample is."""

    def publish(self, verdict: Verdict, remembered: Sequence[str] = ()) -> bool:
        self.verdicts.append(verdict)
        return True


@dataclass(frozen=True)
class _One:
    """Stands in for a ledger that has one task."""

    claimed: Claim

    @contextmanager
    def claim(self, task: str) -> Iterator[Claim]:
        yield self.claimed


class Report:
    """Counts comparisons, and appends each to `file` if there is one. Safe to share among threads."""

    def __init__(self, file: Path | None) -> None:
        self._file, self._lock, self._seldom = file, Lock(), Seldom()
        self.registry = CollectorRegistry()
        self._images = Counter(
            "m3agiqa_shadow_images_total",
            "Samples: compared, failed here, or skipped; with the code of the failure.",
            ["outcome", "code"],
            registry=self.registry,
        )
        self._decisions = Counter(
            "m3agiqa_shadow_decisions_total",
            "Samples that were compared, by both decisions.",
            ["production", "shadow"],
            registry=self.registry,
        )
        self._differences = Histogram(
            "m3agiqa_shadow_score_difference",
            "Score here minus score in production, points.",
            ["aspect"],
            buckets=_DIFFERENCES,
            registry=self.registry,
        )

    def skipped(self, code: str) -> None:
        self._images.labels("skipped", code).inc()

    def compared(self, production: Verdict, shadow: Verdict) -> None:
        if shadow.error is not None:
            self._images.labels("failed", shadow.error.code).inc()
            return
        found = Comparison.from_verdicts(production, shadow)
        self._images.labels("compared", "").inc()
        self._decisions.labels(production.decision, shadow.decision).inc()
        for aspect, points in found.differences.items():
            self._differences.labels(aspect).observe(points)
        if self._file is not None:
            self._append(self._file, found.model_dump_json() + "\n")

    def _append(self, file: Path, line: str) -> None:
        try:
            # Opened anew each time, so that the file may be rotated.
            with self._lock, file.open("a", encoding="utf-8") as out:
                out.write(line)
        except OSError as error:
            if self._seldom.now(error.errno):
                logger.error("M3AGIQA_SHADOW_FILE: %s", console.reason(error))


@dataclass(frozen=True)
class Shadow:
    """Compares samples of the Redis that `ledger` is in. `profile` is the one of production, or `ANY`."""

    ledger: Ledger
    handler: ScoreHandler
    report: Report
    profile: str
    share: float

    def run(self, threads: int) -> None:
        """Compare, `threads` samples at a time, until an exception ends it, such as that of a signal.

        Raises:
            DeviceLost: the model scores no more; whoever supervises this process starts it again.
        """
        free = Semaphore(threads)
        with ThreadPoolExecutor(threads, "shadow") as pool:
            while self.handler.batcher.alive(runtime.HANGING_AFTER * self.handler.timeout_s):
                # No sample is asked for that no thread has time for: production then lays none aside.
                free.acquire()
                text = self._next()
                if text is None:
                    free.release()
                else:
                    pool.submit(self.compare, text).add_done_callback(lambda _: free.release())
            raise DeviceLost("the model scores no more")

    def _next(self) -> str | None:
        redis = self.ledger.connection
        try:
            redis.call("set", redis.key(keys.SHADOW_SHARE), self.share, ex=_ASKED_S)
            found = redis.call("brpop", [redis.key(keys.SHADOW)], timeout=_WAIT_S)
        except QueueUnavailable as error:
            logger.error("waits: %s", error)
            time.sleep(_WAIT_S)
            return None
        return None if found is None else str(found[1])

    def compare(self, text: str) -> None:
        """Score a sample and report. Never raises: a sample is nothing that anybody waits for."""
        try:
            sample = _Sample.model_validate_json(text)
            request = ScoreRequest.parse(sample.request)
        except (ValidationError, M3AGIQAError):
            logger.warning("a sample cannot be read")
            self.report.skipped("unreadable")
            return
        decided = sample.verdict
        if decided.status != "scored" or decided.model is None:
            self.report.skipped("not_scored")
            return
        if self.profile not in (ANY, decided.model.profile):
            self.report.skipped("other_profile")
            return
        steps.begin(request.name)
        try:
            self._score(request, decided)
        except Busy as busy:
            self.report.skipped(busy.code)
        except Exception:
            logger.exception("a sample failed")
            self.report.skipped("internal_error")
        finally:
            steps.end()

    def _score(self, request: ScoreRequest, decided: Verdict) -> None:
        # Production was in time; whoever judges a model has more.
        request = request.model_copy(update={"expires_at": None})
        claim = _Aside(self.ledger, request.name, "score", 1, 1, request, "", ())
        replace(self.handler, ledger=_One(claim)).run(request.name)
        for verdict in claim.verdicts:
            self.report.compared(decided, verdict)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the shadow worker. Returns its exit code, one of those in `console`."""
    return console.run(lambda: _run(argv), as_process=argv is None)


def _run(argv: Sequence[str] | None) -> int:
    told = "Score a sample of what production scored with another profile, and tell the differences."
    argparse.ArgumentParser(prog="python -m worker.shadow", description=told).parse_args(argv)
    settings = Settings.from_environment()
    logs.start(settings.log_format)
    if settings.shadow_of is None:
        raise ConfigError(f"M3AGIQA_SHADOW_OF: name the profile of production, or `{ANY}` for any")
    # A worker that is asked to stop has done its work.
    with suppress(KeyboardInterrupt), ExitStack() as stack:
        _open(stack, settings, settings.shadow_of).run(2 * settings.max_batch)
    return console.DONE


def _open(stack: ExitStack, settings: Settings, profile: str) -> Shadow:
    if settings.shadow_file is not None:
        try:
            settings.shadow_file.open("a").close()
        except OSError as error:
            raise ConfigError(f"M3AGIQA_SHADOW_FILE: {console.reason(error)}") from None
    ledger = Ledger(settings.redis.url, silence_s=settings.redis_silence_s)
    stack.callback(ledger.close)
    report = Report(settings.shadow_file)
    if settings.metrics_port is not None:
        stack.enter_context(serving(report.registry, str(settings.metrics_address), settings.metrics_port))
    # Nothing is tried again, and nothing remembered or taken from what production remembers.
    settings = settings.model_copy(update={"score_retry_delays_s": (), "score_cache_ttl_s": 0})
    handler = open_scoring(stack, settings, ledger, 2 * settings.max_batch, None)
    logger.info("compares %g of what %s scores with %s", settings.shadow_share, profile, settings.model)
    return Shadow(ledger, handler, report, profile, settings.shadow_share)


if __name__ == "__main__":
    sys.exit(main())
