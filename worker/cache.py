"""Remembers scores, so that a picture that comes again costs no GPU."""

from __future__ import annotations

import hashlib
import json

from pydantic import TypeAdapter, ValidationError

from m3agiqa.contract import Aspect, AspectScore, ModelInfo
from m3agiqa.jobs import Job, Scores
from worker.store import Store

_ASPECTS = TypeAdapter(dict[Aspect, AspectScore])


def fingerprint(model: ModelInfo, profile: str) -> str:
    """Of everything that a score depends on beside picture and prompt; `profile` is the model's profile as JSON."""
    return hashlib.sha256(f"{model.model_dump_json()}\n{profile}".encode()).hexdigest()


class ScoreCache:
    """Scores by the picture's bytes, the prompt, the aspects and the model; policies are applied anew each time.

    Methods raise QueueUnavailable if Redis stays away.
    """

    def __init__(self, store: Store, fingerprint: str) -> None:
        self._store = store
        self._fingerprint = fingerprint

    def get(self, job: Job) -> Scores | None:
        found = self._store.cached_scores(self._key(job))
        try:
            return None if found is None else Scores(_ASPECTS.validate_json(found))
        except ValidationError:  # of another version
            return None

    def put(self, job: Job, scores: Scores) -> None:
        self._store.cache_scores(self._key(job), _ASPECTS.dump_json(dict(scores.aspects)).decode())

    def _key(self, job: Job) -> str:
        aspects = None if job.aspects is None else sorted(job.aspects)
        parts = json.dumps([self._fingerprint, job.picture.info.sha256, job.prompt, aspects])
        return hashlib.sha256(parts.encode()).hexdigest()
