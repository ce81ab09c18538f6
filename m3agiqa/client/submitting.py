"""What both clients share about requests and verdicts: makes and judges requests, and reads verdicts."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Required, TypedDict

from pydantic import ValidationError

from m3agiqa import config
from m3agiqa.contract import Priority, ScoreRequest, Verdict
from m3agiqa.errors import NewerVersion, QueueFull, RequestConflict, RequestInvalid, ResultTimeout
from m3agiqa.quoting import quoted
from m3agiqa.tracing import traced

#: Requests that may wait before `submit` refuses more: some 500 MB of Redis, an hour's work of four GPUs.
MAX_QUEUED = 100_000
#: Seconds that a refused producer is told to wait at least and at most.
_RETRY_AFTER_S = (1.0, 60.0)
#: Ids that a message names.
_NAMED = 8


class Fields(TypedDict, total=False):
    """Fields of one request; `m3agiqa.contract.ScoreRequest` says what each means."""

    image_url: Required[str]
    prompt: Required[str]
    callback_url: str | None
    s3_uri: str | None
    aspects: Sequence[str] | None
    policy: str | None
    priority: Priority
    request_id: str | None
    metadata: Mapping[str, Any] | None
    expires_at: datetime | None
    batch_id: str | None
    retry_failed: bool


def parsed(items: Iterable[ScoreRequest | Mapping[str, Any]]) -> list[ScoreRequest]:
    """Requests, with the caller's span. Fields that are None count as left out.

    Raises:
        RequestInvalid: a field is wrong, or `refuse_unknown_policy` refuses a request.
    """
    requests = []
    for item in items:
        if not isinstance(item, ScoreRequest):
            item = ScoreRequest.parse({name: value for name, value in item.items() if value is not None})
        refuse_unknown_policy(item)
        requests.append(traced(item))
    return requests


def refuse_unknown_policy(request: ScoreRequest) -> None:
    """Refuse a request whose policy the workers cannot find, where M3AGIQA_CONFIG_DIR names their folder here as well.

    Elsewhere, only a worker knows the operator's policies: it answers with a failure.

    Raises:
        RequestInvalid: there is no such policy.
    """
    own = os.environ.get(config.OWN_DIR)
    if request.policy is None or not own or not os.access(Path(own) / "policies", os.R_OK | os.X_OK):
        return
    if config.named("policies", request.policy) is None:
        known = ", ".join(config.names("policies"))
        raise RequestInvalid(f"policy: there is no {quoted(request.policy)}; one of: {known}")


def refuse_conflicts(requests: Iterable[ScoreRequest], standing: Iterable[ScoreRequest], submitted: list[str]) -> None:
    """Refuse requests of which two differ under one id, or which are among `standing`: those whose ids are taken by
    other requests.

    Raises:
        RequestConflict: there are such; `submitted` were enqueued before.
    """
    first: dict[str, ScoreRequest] = {}
    repeated = [(first.setdefault(one.request_id, one), one) for one in requests]
    # A fingerprint takes some time, and ids are rarely there twice.
    differing = [one for before, one in repeated if before is not one and before.fingerprint != one.fingerprint]
    ids = list(dict.fromkeys(one.request_id for one in [*standing, *differing]))
    if ids:
        named = ", ".join(ids[:_NAMED]) + (f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else "")
        raise RequestConflict(
            f"request_id: another request stands under {named} ({len(submitted)} enqueued)", ids, submitted
        )


def full(max_queued: int, oldest_s: float, submitted: Sequence[str]) -> QueueFull:
    """Says when to come back: by then, workers have done about a tenth of what waits."""
    wait_s = min(max(oldest_s / 10, _RETRY_AFTER_S[0]), _RETRY_AFTER_S[1])
    return QueueFull(
        f"{max_queued} requests wait already; come back in {wait_s:.0f} s ({len(submitted)} enqueued)",
        retry_after_s=wait_s,
        submitted=submitted,
    )


def read(text: str, request_id: str) -> Verdict:
    """Raises NewerVersion if this version cannot read the verdict."""
    try:
        return Verdict.model_validate_json(text)
    except ValidationError:
        raise NewerVersion(f"the verdict of {quoted(request_id)} cannot be read by this version") from None


def late(what: str, timeout: float | None) -> ResultTimeout:
    return ResultTimeout(f"no verdict for {what} within {timeout} s; is a worker running, and was it submitted?")
