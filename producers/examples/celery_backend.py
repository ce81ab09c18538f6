"""Submits images from a Celery of your own, and acts on their verdicts; no worker waits for one:
REDIS_URL=redis://localhost:6379/0 BROKER_URL=redis://localhost:6379/1 celery -A celery_backend worker
"""

import logging
import os
import time
from functools import cache

from celery import Celery, Task

from m3agiqa.client import Client
from m3agiqa.errors import M3AGIQAError, QueueFull, QueueUnavailable, ResultTimeout

#: What becomes of an image that has no score after so many seconds: "keep" or "drop".
OTHERWISE = os.environ.get("OTHERWISE", "keep")
TIMEOUT_S = float(os.environ.get("TIMEOUT_S", "60"))
#: Seconds between two looks for a verdict.
LOOK_S = float(os.environ.get("LOOK_S", "2"))
WHAT_TO_DO = {"accept": "shown", "review": "held", "reject": "withdrawn"}

logger = logging.getLogger(__name__)
app = Celery(broker=os.environ["BROKER_URL"], backend=os.environ["BROKER_URL"])


@cache
def client() -> Client:
    # Made in the process that uses it, as connections do not survive a fork.
    return Client(os.environ["REDIS_URL"])


@app.task(bind=True, max_retries=None)
def moderate(self: Task, image_id: str, image_url: str, prompt: str, deadline: float | None = None) -> str:
    """Submit an image under its own id, so that a second run of the task changes nothing."""
    deadline = deadline or time.time() + TIMEOUT_S
    try:
        client().submit(image_url=image_url, prompt=prompt, request_id=image_id)
    except (QueueFull, QueueUnavailable) as error:
        if time.time() < deadline:
            pause_s = error.retry_after_s if isinstance(error, QueueFull) else LOOK_S
            raise self.retry(args=(image_id, image_url, prompt, deadline), countdown=pause_s) from None
        return unscored(image_id, str(error))
    except M3AGIQAError as error:
        return unscored(image_id, str(error))
    decide.apply_async((image_id, deadline), countdown=LOOK_S)
    return "pending"


@app.task(bind=True, max_retries=None)
def decide(self: Task, image_id: str, deadline: float) -> str:
    """Look for the verdict, and act on it; come back later if there is none."""
    try:
        verdict = client().result(image_id, timeout=0)
    except (ResultTimeout, QueueUnavailable) as error:
        if time.time() < deadline:
            raise self.retry(countdown=LOOK_S) from None
        return unscored(image_id, str(error))
    except M3AGIQAError as error:
        return unscored(image_id, str(error))
    if verdict.error is not None and verdict.error.retryable:
        return unscored(image_id, verdict.error.message)
    # One that failed for good, as its prompt is too long for one, is decided as well.
    return act(image_id, WHAT_TO_DO[verdict.decision])


def unscored(image_id: str, why: str) -> str:
    todo = "shown" if OTHERWISE == "keep" else "withdrawn"
    logger.warning("image %s has no score and is %s: %s", image_id, todo, why)
    return act(image_id, todo)


def act(image_id: str, todo: str) -> str:
    """In the place of what your backend does with an image: shown, held, or withdrawn."""
    logger.warning("image %s is %s", image_id, todo)
    return todo
