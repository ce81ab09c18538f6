"""What happens to a request: fetch, score, decide, deliver."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from celery.exceptions import Reject
from celery.worker.request import Request
from pydantic import ValidationError

from m3agiqa.contract import Failure, ImageInfo, ScoreRequest, Verdict
from m3agiqa.errors import M3AGIQAError, QueueUnavailable, RequestInvalid
from m3agiqa.images import open_picture
from m3agiqa.jobs import Job, Scores
from m3agiqa.policy import Policy
from m3agiqa.verdict import assemble
from producers import keys, message
from producers.dead import DeadLetter
from worker.app import app
from worker.batcher import Batcher
from worker.deliver import Delivery, Sender
from worker.fetch import Fetcher
from worker.settings import Settings
from worker.store import Store, deliver_message

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Moderator:
    """Turns a request into a verdict. Methods return, in a few words, what was done."""

    settings: Settings
    store: Store
    fetcher: Fetcher
    batcher: Batcher
    default_policy: Policy

    def handle(self, request: ScoreRequest, attempt: int) -> str:
        """Fetch, score, decide, deliver; `attempt` counts from 1.

        Raises:
            QueueUnavailable: the outcome could not be kept; the request must be handled again.
        """
        clock = Stopwatch(request.submitted_at)
        policy, image = self.default_policy, None
        outcome: Scores | Failure
        try:
            policy = self._policy(request.policy)
            with clock.stage("fetch"):
                data = self.fetcher.fetch(request.image_url)
            with clock.stage("decode"):
                picture = open_picture(data, max_pixels=self.settings.max_pixels)
            image = picture.info
            with clock.stage("score"):
                job = Job(picture, request.prompt, request.aspects)
                outcome = self.batcher.score(job, self.settings.score_timeout_s)
        except Exception as error:
            outcome = _failure(error, request.request_id)

        delays = self.settings.score_retry_delays_s
        if attempt <= len(delays) and (passing := _passing(outcome)):
            self.store.score_later(request, retries=attempt, delay_s=delays[attempt - 1])
            return f"{passing.code}, again in {delays[attempt - 1]:g} s"

        return self._answer(request, outcome, attempt, policy, image, clock.timings_ms)

    def refuse(self, payload: dict[str, Any], invalid: RequestInvalid, attempt: int) -> str:
        """Answer a request that is not valid, if enough of it is to know whom."""
        request = _salvage(payload)
        if request is not None:
            return self._answer(request, Failure.of(invalid), attempt, self.default_policy)
        self.store.bury(_dead(keys.SCORE_QUEUE, payload, Failure.of(invalid), attempt))
        return f"{invalid.code}, and it names no request"

    def _answer(
        self,
        request: ScoreRequest,
        outcome: Scores | Failure,
        attempt: int,
        policy: Policy,
        image: ImageInfo | None = None,
        timings_ms: dict[str, float] | None = None,
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
        self.store.publish(verdict, _deliveries(request, verdict))
        return f"{verdict.status}: {verdict.decision}" + (f" ({verdict.error.code})" if verdict.error else "")

    def _policy(self, name: str | None) -> Policy:
        return self.default_policy if name is None else _load_policy(name)


@dataclass(frozen=True)
class Courier:
    """Takes a verdict to one place."""

    settings: Settings
    store: Store
    sender: Sender

    def handle(self, delivery: Delivery) -> str:
        """Deliver; what may work later is tried again later, everything else becomes a dead letter.

        Raises:
            QueueUnavailable: the outcome could not be kept; the delivery must be handled again.
        """
        try:
            self.sender.send(delivery)
            return "delivered"
        except Exception as error:
            failure = _failure(error, delivery.request_id)
            asked_for_s = getattr(error, "retry_after_s", None) or 0.0

        delays = self.settings.deliver_retry_delays_s
        if failure.retryable and delivery.attempt <= len(delays):
            delay_s = max(delays[delivery.attempt - 1], asked_for_s)
            self.store.deliver_later(delivery.model_copy(update={"attempt": delivery.attempt + 1}), delay_s=delay_s)
            return f"{failure.code}, again in {delay_s:g} s"

        self.store.bury(
            DeadLetter(
                queue=keys.DELIVER_QUEUE,
                request_id=delivery.request_id,
                kind=delivery.kind,
                code=failure.code,
                reason=failure.message,
                attempts=delivery.attempt,
                message=deliver_message(delivery.model_copy(update={"attempt": 1})),
            )
        )
        return f"{failure.code}, given up"


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


@lru_cache(maxsize=64)
def _load_policy(name: str) -> Policy:
    return Policy.load(name)


def _failure(error: Exception, request_id: str) -> Failure:
    if not isinstance(error, M3AGIQAError):
        logger.error("unexpected failure of request %s", request_id, exc_info=error)
    return Failure.of(error)


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


def _salvage(payload: dict[str, Any]) -> ScoreRequest | None:
    """The valid fields of an invalid request, good for answering it; None if it does not say which it is."""
    unknown = {"image_url": "https://unknown.invalid", "prompt": ""}
    try:
        ScoreRequest.model_validate(payload)
    except ValidationError as error:
        wrong = {item["loc"][0] for item in error.errors() if item["loc"]}
        valid = {name: value for name, value in payload.items() if name not in wrong}
        return ScoreRequest.model_validate({**unknown, **valid}) if "request_id" in valid else None
    raise ValueError("the request is valid")


def _dead(queue: str, payload: dict[str, Any], failure: Failure, attempts: int) -> DeadLetter:
    request_id = payload.get("request_id")
    return DeadLetter(
        queue=queue,
        request_id=request_id if isinstance(request_id, str) else None,
        kind="message",
        code=failure.code,
        reason=failure.message,
        attempts=attempts,
        message=message.envelope(queue, payload, task_id=str(request_id)),
    )


class PrivateRequest(Request):  # type: ignore[misc]
    """Shows monitors no arguments, whatever the producer wrote into the message for them to show."""

    def __init__(self, message: Any, **options: Any) -> None:
        super().__init__(message, **options)
        self._argsrepr = "(...)"
        self._kwargsrepr = "{}"

    def info(self, safe: bool = False) -> Any:
        return super().info(safe=True)


@contextmanager
def _never_lost(store: Store, queue: str, payload: dict[str, Any]) -> Iterator[None]:
    """Celery forgets a task that raises: see to it that its message stays somewhere."""
    try:
        yield
    except QueueUnavailable as error:
        logger.error("back on the queue: %s", error)
        raise Reject(str(error), requeue=True) from None
    except Exception as error:
        logger.exception("a message on %s became a dead letter", queue)
        store.bury(_dead(queue, payload, Failure.of(error), attempts=1))


@app.task(name=keys.SCORE_TASK, bind=True, Request=f"{__name__}:{PrivateRequest.__name__}")  # type: ignore[untyped-decorator]
def score(task: Any, payload: dict[str, Any]) -> str | None:
    moderator: Moderator = task.moderator
    attempt = task.request.retries + 1
    with _never_lost(moderator.store, keys.SCORE_QUEUE, payload):
        try:
            request = ScoreRequest.parse(payload)
        except RequestInvalid as error:
            return moderator.refuse(payload, error, attempt)
        return moderator.handle(request, attempt)
    return None


@app.task(name=keys.DELIVER_TASK, bind=True, Request=f"{__name__}:{PrivateRequest.__name__}")  # type: ignore[untyped-decorator]
def deliver(task: Any, payload: dict[str, Any]) -> str | None:
    courier: Courier = task.courier
    with _never_lost(courier.store, keys.DELIVER_QUEUE, payload):
        return courier.handle(Delivery.model_validate(payload))
    return None
