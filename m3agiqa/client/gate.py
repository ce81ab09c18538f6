"""`Gate`: sorts images by their verdicts, right where they are generated."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, TypeAlias, TypeVar

from m3agiqa.client.sync import Client
from m3agiqa.contract import MAX_PROMPT_CHARS, Decision, Priority, Verdict
from m3agiqa.errors import (
    ConfigError,
    InternalError,
    M3AGIQAError,
    PromptTooLong,
    QueueUnavailable,
    ScoringError,
    UsageError,
)
from m3agiqa.queue.address import Address

logger = logging.getLogger(__name__)

#: What becomes of an image that has no score.
Otherwise: TypeAlias = Literal["keep", "drop", "raise"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Judged:
    """An image, and whether to keep it."""

    #: As it was given.
    image: Any
    prompt: str
    kept: bool
    #: Empty for an image that was accepted; else which thresholds it missed, or why it has no score.
    why: str
    #: None where none came.
    verdict: Verdict | None


class Gate:
    """Submits images, waits for their verdicts, and says which to keep. Safe to share between threads.

    What is accepted is kept, and what is rejected is not. `review` says which of both holds for what a person should
    see, "keep" or "drop".

    An image whose verdict failed for good, as its prompt is too long or it cannot be read, is what the verdict's
    decision says: whoever writes prompts must not get images past the gate by them. `otherwise` says what becomes of
    one that has no score for any other reason, because Redis cannot be reached, no verdict comes within `timeout`
    seconds, or its verdict failed in a way that may pass: "keep" (and a warning in the log says so), "drop", or
    "raise".

    Without a client, all gates of a process share one to the Redis that M3AGIQA_REDIS_URL names.

    Raises:
        ConfigError: `otherwise` or `review` is none of these words.
    """

    def __init__(
        self,
        client: Client | None = None,
        *,
        timeout: float = 60.0,
        otherwise: Otherwise = "keep",
        review: Literal["keep", "drop"] = "drop",
        policy: str | None = None,
        priority: Priority = 3,
    ) -> None:
        for name, word, words in (
            ("otherwise", otherwise, ("keep", "drop", "raise")),
            ("review", review, ("keep", "drop")),
        ):
            if word not in words:
                raise ConfigError(f"{name}: must be one of {', '.join(words)}")
        self._client = client
        self._timeout = timeout
        self._otherwise = otherwise
        self._kept = {Decision.ACCEPT, Decision.REVIEW} if review == "keep" else {Decision.ACCEPT}
        self._policy = policy
        self._priority = priority

    def judge(self, images: Sequence[Any], prompts: str | Sequence[str]) -> list[Judged]:
        """Wait for the verdicts of images, `timeout` seconds in all; one result for each, in order.

        `Client.submit` says what an image may be. There is one prompt for all, one for each image, or one for each run
        of as many images, as generators put out several of each prompt.

        Raises:
            M3AGIQAError: an image has no score, and `otherwise` is "raise".
        """
        deadline = time.monotonic() + self._timeout
        paired = _paired([prompts] if isinstance(prompts, str) else list(prompts), len(images))
        asked = _outcomes(self._submit, zip(images, paired, strict=True))
        found = _outcomes(lambda request_id: self._result(request_id, deadline), asked)
        return [
            self._judged(image, prompt or "", outcome)
            for image, prompt, outcome in zip(images, paired, found, strict=True)
        ]

    @property
    def _queue(self) -> Client:
        return self._client or _of_the_environment()

    def _submit(self, pair: tuple[Any, str | None]) -> str:
        image, prompt = pair
        if prompt is None:
            raise UsageError("prompt: there are not as many prompts as images, nor one for as many images each")
        if len(prompt) > MAX_PROMPT_CHARS:
            raise PromptTooLong(f"prompt: {len(prompt)} characters are more than {MAX_PROMPT_CHARS}")
        return self._queue.submit(image=image, prompt=prompt, policy=self._policy, priority=self._priority)

    def _result(self, request_id: str | M3AGIQAError, deadline: float) -> Verdict:
        if isinstance(request_id, M3AGIQAError):
            raise request_id
        return self._queue.result(request_id, round(max(0.0, deadline - time.monotonic()), 1))

    def _judged(self, image: Any, prompt: str, outcome: Verdict | M3AGIQAError) -> Judged:
        verdict = outcome if isinstance(outcome, Verdict) else None
        if verdict is not None and verdict.status == "scored":
            accepted = verdict.decision is Decision.ACCEPT
            why = "" if accepted else "; ".join(verdict.reasons) or str(verdict.decision)
            return Judged(image, prompt, verdict.decision in self._kept, why, verdict)
        error = _failure(verdict) if verdict is not None else outcome
        if isinstance(error, PromptTooLong) or (verdict is not None and not _may_pass(verdict)):
            decision = Decision.REVIEW if verdict is None else verdict.decision
            return Judged(image, prompt, decision in self._kept, str(error), verdict)
        if self._otherwise == "raise":
            assert isinstance(error, M3AGIQAError), "what is no verdict is a failure"
            raise error
        kept = self._otherwise == "keep"
        logger.warning("an image has no score and is %s: %s", "kept" if kept else "dropped", error)
        return Judged(image, prompt, kept, str(error), verdict)


@cache
def _of_the_environment() -> Client:
    return Client(Address.from_environment().url)


def _paired(prompts: list[str], images: int) -> list[str] | list[None]:
    """The prompt of each image; None for all where they do not pair up."""
    if not prompts or images % len(prompts):
        return [None] * images
    return [prompt for prompt in prompts for _ in range(images // len(prompts))]


def _outcomes(step: Callable[[_Item], _Result], items: Iterable[_Item]) -> list[_Result | M3AGIQAError]:
    """What `step` makes of each item, or how it fails. None is tried after Redis could not be reached."""
    outcomes: list[_Result | M3AGIQAError] = []
    away: QueueUnavailable | None = None
    for item in items:
        try:
            outcomes.append(away or step(item))
        except M3AGIQAError as error:
            away = error if isinstance(error, QueueUnavailable) else None
            outcomes.append(error)
        except Exception as error:
            # A defect of ours must not cost an image either.
            logger.exception("an image cannot be judged")
            outcomes.append(InternalError(f"unexpected {type(error).__name__}"))
    return outcomes


def _may_pass(verdict: Verdict) -> bool:
    return verdict.error is None or verdict.error.retryable


def _failure(verdict: Verdict) -> ScoringError:
    return ScoringError(f"{verdict.error.code}: {verdict.error.message}" if verdict.error else "it could not be scored")
