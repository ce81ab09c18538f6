"""Turns a request into a verdict: fetch, score, decide, deliver."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from pydantic import ValidationError

from m3agiqa.contract import Failure, ImageInfo, ScoreRequest, Verdict
from m3agiqa.cutting import CutPicture
from m3agiqa.errors import Busy, M3AGIQAError, PoisonTask, QueueUnavailable, RequestExpired, RequestInvalid
from m3agiqa.jobs import Job, Scores
from m3agiqa.policy import Policy
from m3agiqa.prompts import neutralised
from m3agiqa.verdict import assemble
from producers.dead import DeadLetter
from worker.batcher import Batcher
from worker.cache import ScoreCache
from worker.decoding.budget import Budget, Hold
from worker.decoding.pool import Decoders
from worker.deliver import Delivery
from worker.fetch import Fetcher
from worker.settings import Settings
from worker.store import Lease, Store

logger = logging.getLogger(__name__)

#: Seconds that a request is put off for a busy picture server, at most.
LONGEST_DELAY_S = 30.0

#: Stands for what is wrong in an invalid request.
_UNKNOWN = {"image_url": "https://unknown.invalid", "prompt": ""}


@dataclass(frozen=True)
class Moderator:
    """Methods return, in a few words, what was done."""

    settings: Settings
    store: Store
    cache: ScoreCache
    fetcher: Fetcher
    decoders: Decoders
    budget: Budget
    batcher: Batcher
    default_policy: Policy

    def handle(self, request: ScoreRequest, attempt: int, lease: Lease) -> str:
        """Fetch, score, decide, deliver; `attempt` counts from 1.

        Raises:
            QueueUnavailable: the outcome could not be kept; the request must be handled again.
        """
        clock = Stopwatch(request.submitted_at)
        policy, image, asked_for_s = self.default_policy, None, 0.0
        outcome: Scores | Failure
        try:
            policy = self._policy(request.policy)
            _still_wanted(request)
            with self.budget.hold() as hold:
                picture = self._picture(request, hold, clock)
                image = picture.info
                with clock.stage("score"):
                    outcome = self._score(request, Job(picture, neutralised(request.prompt), request.aspects), lease)
        except QueueUnavailable:
            raise
        except Busy as busy:
            self.store.release(lease, delay_s=busy.delay_s, why=str(busy))
            return f"{busy}, again in {busy.delay_s:.1f} s"
        except Exception as error:
            outcome = failure_of(error, request.request_id)
            asked_for_s = getattr(error, "retry_after_s", None) or 0.0

        delays = self.settings.score_retry_delays_s
        if attempt <= len(delays) and (passing := _passing(outcome)):
            delay_s = max(delays[attempt - 1], asked_for_s)
            self.store.score_later(lease, request, retries=attempt, delay_s=delay_s, why=passing.code)
            return f"{passing.code}, again in {delay_s:g} s"

        return self._answer(request, outcome, attempt, policy, image, clock.timings_ms)

    def give_up(self, request: ScoreRequest, poison: PoisonTask, attempt: int, letter: DeadLetter) -> str:
        """Answer a request that nobody may run again, and keep what happened as a dead letter."""
        return self._answer(request, Failure.of(poison), attempt, self.default_policy, letter=letter)

    def refuse(self, request: ScoreRequest, invalid: RequestInvalid, attempt: int) -> str:
        """Answer a request that is not valid."""
        return self._answer(request, Failure.of(invalid), attempt, self.default_policy)

    def _picture(self, request: ScoreRequest, hold: Hold, clock: Stopwatch) -> CutPicture:
        """Fetch and decode; what the picture takes of the memory budget stays with `hold`."""
        with clock.stage("fetch"):
            data = self.fetcher.fetch(request.image_url, hold)
        with clock.stage("open"):
            picture = self.decoders.quick(data) or self.decoders.patient(data, hold)
            hold.resize(picture.size_bytes)
        return picture

    def _score(self, request: ScoreRequest, job: Job, lease: Lease) -> Scores | Failure:
        if (known := self.cache.get(job)) is not None:
            return known
        self.store.mark_scoring(lease)
        _still_wanted(request)
        outcome = self.batcher.score(job, self.settings.score_timeout_s, request.priority)
        if isinstance(outcome, Scores) and not outcome.failures:
            self.cache.put(job, outcome)
        return outcome

    def _answer(
        self,
        request: ScoreRequest,
        outcome: Scores | Failure,
        attempt: int,
        policy: Policy,
        image: ImageInfo | None = None,
        timings_ms: dict[str, float] | None = None,
        letter: DeadLetter | None = None,
    ) -> str:
        verdict = assemble(
            request,
            outcome,
            request.aspects or self.batcher.scoring.aspects,
            policy=policy,
            model=self.batcher.scoring.info,
            image=image,
            timings_ms=timings_ms,
            attempt=attempt,
        )
        if not self.store.publish(verdict, _deliveries(request, verdict), letter):
            return "another worker was first"
        return f"{verdict.status}: {verdict.decision}" + (f" ({verdict.error.code})" if verdict.error else "")

    def _policy(self, name: str | None) -> Policy:
        return self.default_policy if name is None else _load_policy(name)


class Stopwatch:
    """Milliseconds by stage, beginning with the time since `submitted_at`."""

    def __init__(self, submitted_at: datetime) -> None:
        waited_ms = (datetime.now(UTC) - submitted_at).total_seconds() * 1000
        # The submitter's clock may be ahead of ours.
        self.timings_ms = {"queue": max(0.0, waited_ms)}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.timings_ms[name] = (time.perf_counter() - began) * 1000


def failure_of(error: Exception, request_id: str) -> Failure:
    if not isinstance(error, M3AGIQAError):
        logger.error("unexpected failure of request %s", request_id, exc_info=error)
    return Failure.of(error)


def understood(payload: dict[str, Any]) -> tuple[ScoreRequest | None, RequestInvalid | None]:
    """The request, and what is wrong with it.

    Of an invalid one this is its valid fields, good for answering it; None if it does not say which it is.
    """
    try:
        return ScoreRequest.parse(payload), None
    except RequestInvalid as error:
        invalid = error
    valid = {
        name: payload[name] for name in ScoreRequest.model_fields if name in payload and _fits(name, payload[name])
    }
    return (ScoreRequest.model_validate({**_UNKNOWN, **valid}) if "request_id" in valid else None), invalid


def _fits(name: str, value: object) -> bool:
    try:
        ScoreRequest.model_validate({**_UNKNOWN, name: value})
    except ValidationError:
        return False
    return True


@lru_cache(maxsize=64)
def _load_policy(name: str) -> Policy:
    return Policy.load(name)


def _still_wanted(request: ScoreRequest) -> None:
    if request.expires_at is not None and datetime.now(UTC) >= request.expires_at:
        raise RequestExpired("its expires_at passed before it was scored")


def _passing(outcome: Scores | Failure) -> Failure | None:
    """A failure that may not be there next time."""
    failures = [outcome] if isinstance(outcome, Failure) else outcome.failures.values()
    return next((failure for failure in failures if failure.retryable), None)


def _deliveries(request: ScoreRequest, verdict: Verdict) -> list[Delivery]:
    body = verdict.model_dump_json()
    return [
        Delivery(
            request_id=request.request_id,
            kind=kind,
            url=url,
            body=body,
            submitted_at=request.submitted_at,
            attempt=1,
        )
        for kind, url in (("callback", request.callback_url), ("s3", request.s3_uri))
        if url is not None
    ]
