"""Turns a request into a verdict: fetch, open, score, decide, publish."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from m3agiqa.contract import Asked, Failure, ImageInfo, ScoreRequest, Verdict
from m3agiqa.cutting import SlicedImage
from m3agiqa.deciding import with_shadow
from m3agiqa.errors import Busy, QueueUnavailable, RequestExpired, TaskRevoked
from m3agiqa.guard import guarded
from m3agiqa.jobs import Job, Scores
from m3agiqa.policy import Policies, Policy
from m3agiqa.prompts import neutralised
from m3agiqa.queue.claim import Claim, Claims
from m3agiqa.scorer import Scoring
from m3agiqa.tenants import Tenants
from m3agiqa.verdict import assemble
from worker.ops import tracing
from worker.ops.reporting import failure_of
from worker.ops.stages import with_stages
from worker.ops.steps import failed, step
from worker.score.batcher import Batcher
from worker.score.cache import ScoreCache
from worker.score.decoding.budget import Budget, Hold
from worker.score.decoding.pool import Decoders
from worker.score.fetch import Fetcher

if TYPE_CHECKING:
    from worker.ops.metrics import Metrics

#: Longest wait for the turn of a busy image server, seconds; `worker/score/opening.py` hands it to `Shares`.
LONGEST_DELAY_S = 30.0
#: Names of stages in logs and traces, where they differ from those in a verdict's timings.
_STEPS = {"open": "decode"}
#: Stages whose times the log and Flower tell; the verdict has all.
_TOLD = ("fetch", "open", "score")


@dataclass(frozen=True)
class ScoreHandler:
    """Runs one request. `retry_delays_s` are the seconds to wait after the first, second ... attempt that failed,
    `timeout_s` the seconds until a fetched image must have its score.
    """

    ledger: Claims
    fetcher: Fetcher
    decoders: Decoders
    budget: Budget
    batcher: Batcher
    cache: ScoreCache
    policies: Policies
    retry_delays_s: Sequence[float]
    timeout_s: float
    tenants: Tenants = field(default_factory=Tenants)
    #: Whether verdicts repeat what was asked.
    echo: bool = False
    metrics: Metrics | None = None

    def run(self, task: str) -> str:
        """Fetch, open, score, decide, publish. Returns what was done, for the log and Flower: no URL, no prompt.

        Raises:
            NotOwed: there is nothing to do.
            Busy: a server, a decoder or memory has no room; the request comes again.
            QueueUnavailable: Redis did not take the outcome; the request comes again.
        """
        with self.ledger.claim(task) as claim, tracing.task(claim):
            request, verdict = claim.request, _Verdict(claim, self.policies.default)
            outcome: Scores | Failure
            asked_for_s = 0.0
            try:
                if claim.poisoned:
                    raise claim.poison
                verdict.policy = self._policy(request)
                _still_wanted(request)
                with self.budget.hold() as hold:
                    image = self._image(request, hold, verdict)
                    with verdict.stage("score"):
                        job = Job(image, neutralised(request.prompt), request.aspects)
                        outcome = self._score(verdict, job)
            except (Busy, QueueUnavailable):
                raise
            except Exception as error:
                outcome = failure_of(error, request.name)
                asked_for_s = getattr(error, "retry_after_s", None) or 0.0

            failed(next(_failures(outcome), None))
            if self._comes_again(claim) and (passing := _passing(outcome)):
                delay_s = max(self.retry_delays_s[claim.attempt - 1], asked_for_s)
                claim.postpone(delay_s, passing.code)
                return f"{passing.code}, again in {delay_s:g} s"
            return self._publish(verdict, outcome)

    def revoke(self, task: str) -> None:
        """Answer a request that an operator took back. Raises what `run` raises."""
        with self.ledger.claim(task) as claim:
            revoked = Failure.from_error(TaskRevoked())
            self._publish(_Verdict(claim, self.policies.default), revoked)

    def _publish(self, making: _Verdict, outcome: Scores | Failure) -> str:
        verdict = self._shadowed(making.assemble(outcome, self.batcher.scoring, echo=self.echo))
        with making.stage("publish"):
            is_first = making.claim.publish(verdict, making.remembered)
        if not is_first:
            # Perhaps the request was erased meanwhile, and its scores with it.
            self.cache.forget(making.remembered)
            return "another worker published first, or it was erased"
        if self.metrics is not None:
            self.metrics.published(verdict, making.timings_ms["publish"])
        code = f", {verdict.error.code}" if verdict.error else ""
        stages_ms = {stage: ms for stage, ms in making.timings_ms.items() if stage in _TOLD}
        return with_stages(f"{verdict.decision}{code}", stages_ms)

    def _shadowed(self, verdict: Verdict) -> Verdict:
        """The verdict with what the policy in shadow says. Whatever is wrong with that one, the verdict stands."""
        try:
            shadow = self.policies.shadow
            return verdict if shadow is None else with_shadow(verdict, shadow)
        except Exception as error:
            failure_of(error, verdict.name)
            return verdict

    def _policy(self, request: ScoreRequest) -> Policy:
        """The policy that the request names, or else its tenant's, or else the default one."""
        tenant = self.tenants.find(request.tenant)
        name = request.policy or (tenant.policy if tenant else None)
        return self.policies.default if name is None else self.policies.named(name)

    def _image(self, request: ScoreRequest, hold: Hold, verdict: _Verdict) -> SlicedImage:
        """Fetch and decode; `hold` keeps room in the memory budget for the image."""
        with verdict.stage("fetch"):
            data = self.fetcher.fetch(request.image_url, hold, request.name)
        with verdict.stage("open"):
            image = self.decoders.quick(data) or self.decoders.patient(data, hold)
            hold.resize(image.size_bytes)
        verdict.image = image.info
        return image

    def _score(self, making: _Verdict, job: Job) -> Scores | Failure:
        wanted = job.aspects or self.batcher.scoring.aspects
        score = partial(self._scored, making)
        return guarded(job, score(job), wanted, making.policy, score, comes_again=self._comes_again(making.claim))

    def _comes_again(self, claim: Claim) -> bool:
        """Whether a failure that may pass is tried again."""
        return claim.attempt <= len(self.retry_delays_s)

    def _scored(self, making: _Verdict, job: Job) -> Scores | Failure:
        claim = making.claim
        making.remembered.append(self.cache.key(job))
        if (known := self.cache.get(job)) is not None:
            return known
        claim.mark_scoring()
        _still_wanted(claim.request)
        outcome = self.batcher.score(job, self.timeout_s, claim.request.priority, claim.request.tenant)
        if isinstance(outcome, Scores) and not outcome.failures:
            self.cache.put(job, outcome)
        return outcome


class _Verdict:
    """A verdict in the making: its policy, its image, and the milliseconds of each stage."""

    def __init__(self, claim: Claim, policy: Policy) -> None:
        self.claim = claim
        self.policy = policy
        self.image: ImageInfo | None = None
        #: Keys in Redis under which its scores are remembered, if they are.
        self.remembered: list[str] = []
        waited_ms = (datetime.now(UTC) - claim.request.submitted_at).total_seconds() * 1000
        # The submitter's clock may be ahead of ours.
        self.timings_ms = {"queue": max(0.0, waited_ms)}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            with step(_STEPS.get(name, name)):
                yield
        finally:
            self.timings_ms[name] = (time.perf_counter() - began) * 1000

    def assemble(self, outcome: Scores | Failure, scoring: Scoring, *, echo: bool) -> Verdict:
        request = self.claim.request
        return assemble(
            request,
            outcome,
            request.aspects or scoring.aspects,
            policy=self.policy,
            model=scoring.info,
            image=self.image,
            timings_ms=self.timings_ms,
            attempt=self.claim.attempt,
            asked=Asked.model_validate(request, from_attributes=True) if echo else None,
        )


def _still_wanted(request: ScoreRequest) -> None:
    if request.expires_at is not None and datetime.now(UTC) >= request.expires_at:
        raise RequestExpired("the request's expires_at passed before its image was scored")


def _failures(outcome: Scores | Failure) -> Iterator[Failure]:
    yield from [outcome] if isinstance(outcome, Failure) else outcome.failures.values()


def _passing(outcome: Scores | Failure) -> Failure | None:
    """The first failure that is retryable, or None."""
    return next((failure for failure in _failures(outcome) if failure.retryable), None)
