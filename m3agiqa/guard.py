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
) -> Scores | Failure:
    """`outcome` of `job`, with scores under a neutral prompt if the policy needs them to accept.

    If the second scoring fails for a reason that passes, so has the whole: it can be tried again. If it fails for good,
    the policy sees no second scores, and sends the image to review.
    """
    if isinstance(outcome, Failure) or not (aspects := policy.guards(outcome.aspects, wanted)):
        return outcome
    again = score(Job(job.image, NEUTRAL, aspects))
    if isinstance(again, Failure):
        return again if again.retryable else outcome
    return replace(outcome, neutral={aspect: scored.score for aspect, scored in again.aspects.items()})
