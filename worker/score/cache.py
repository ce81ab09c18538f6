"""Remembers scores, so that an image that comes again costs no GPU."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from m3agiqa.contract import Aspect, AspectScore, ModelInfo
from m3agiqa.jobs import Job, Scores
from m3agiqa.queue import keys
from m3agiqa.queue.connection import Connection

if TYPE_CHECKING:
    from worker.ops.metrics import Metrics

_ASPECTS = TypeAdapter(dict[Aspect, AspectScore])


def fingerprint(model: ModelInfo, profile: str) -> str:
    """SHA-256 of what a score depends on apart from image and prompt: model and profile, the latter as JSON."""
    return hashlib.sha256(f"{model.model_dump_json()}\n{profile}".encode()).hexdigest()


class ScoreCache:
    """Remembers scores for `ttl_s` seconds by the image's bytes, the prompt, the aspects and the model; with 0, it
    remembers none. Decisions are not remembered: a policy judges the scores anew each time.

    Methods raise QueueUnavailable if Redis stays away.
    """

    def __init__(self, connection: Connection, fingerprint: str, *, ttl_s: int, metrics: Metrics | None = None) -> None:
        self._connection = connection
        self._fingerprint = fingerprint
        self._ttl_s = ttl_s
        self._metrics = metrics

    def get(self, job: Job) -> Scores | None:
        if not self._ttl_s:
            return None
        known = self._read(self.key(job))
        if self._metrics is not None:
            self._metrics.looked_up(known is not None)
        return known

    def _read(self, key: str) -> Scores | None:
        found = self._connection.call("get", key)
        try:
            return None if found is None else Scores(_ASPECTS.validate_json(found))
        except ValidationError:  # another version wrote it
            return None

    def put(self, job: Job, scores: Scores) -> None:
        if self._ttl_s:
            text = _ASPECTS.dump_json(dict(scores.aspects)).decode()
            self._connection.call("set", self.key(job), text, ex=self._ttl_s)

    def forget(self, keys: Sequence[str]) -> None:
        """Forget the scores under keys that `key` gave."""
        if keys:
            self._connection.call("delete", *keys)

    def key(self, job: Job) -> str:
        """Name of the key in Redis under which the scores of this job are remembered."""
        aspects = None if job.aspects is None else sorted(job.aspects)
        parts = json.dumps([self._fingerprint, job.image.info.sha256, job.prompt, aspects])
        return self._connection.key(keys.scores(hashlib.sha256(parts.encode()).hexdigest()))
