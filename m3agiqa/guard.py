"""Scores an image a second time, with a prompt that says nothing, before a policy with `prompt_guard` accepts it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from m3agiqa.contract import Aspect, Failure
from m3agiqa.jobs import Job, Scores
from m3agiqa.policy import Policy

#: The prompt that says nothing.
NEUTRAL = "an image"


def guarded(
    job: Job,
    outcome: Scores | Failure,
    wanted: Sequence[Aspect],
    policy: Policy,
    score: Callable[[Job], Scores | Failure],
    *,
    comes_again: bool = False,
) -> Scores | Failure:
    """`outcome` of `job`, with scores under a neutral prompt if the policy needs them to accept.

    If the second scoring fails for a reason that passes, and the job `comes_again` after a failure, that is the
    outcome. Otherwise the policy sees no second score, and sends the image to review.
    """
    if isinstance(outcome, Failure) or not (aspects := policy.guards(outcome.aspects, wanted)):
        return outcome
    again = score(Job(job.image, NEUTRAL, aspects))
    failures = [again] if isinstance(again, Failure) else list(again.failures.values())
    if comes_again and (passing := next((failure for failure in failures if failure.retryable), None)):
        return passing
    if isinstance(again, Failure):
        return outcome
    return replace(outcome, neutral={aspect: scored.score for aspect, scored in again.aspects.items()})
