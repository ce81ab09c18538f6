"""What both clients share about requests and verdicts: makes and judges requests, and reads verdicts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Required, TypedDict

from pydantic import ValidationError

from m3agiqa import config
from m3agiqa.client.images import Image, bytes_of, is_data_url
from m3agiqa.contract import Priority, ScoreRequest, Verdict
from m3agiqa.errors import NewerVersion, QueueFull, RequestConflict, RequestInvalid, ResultTimeout
from m3agiqa.quoting import quoted
from m3agiqa.tenants import Tenants
from m3agiqa.tracing import traced

#: Requests that may wait before `submit` refuses more: some 500 MB of Redis, an hour's work of four GPUs.
MAX_QUEUED = 100_000
#: Requests that `submit_many` sends in one round trip, and the bytes of images with which it sends fewer.
CHUNK, _CHUNK_BYTES = 500, 32 * 2**20
#: Seconds that a refused producer is told to wait at least and at most.
_RETRY_AFTER_S = (1.0, 60.0)
#: Ids that a message names.
_NAMED = 8


class Options(TypedDict, total=False):
    """Options of a client; `Client` says what each means."""

    tenant: str | None
    max_queued: int
    upload: str | None
    inline_max_bytes: int
    inline_budget_bytes: int
    inline_ttl_s: int
    tenants: Tenants | None


class Fields(TypedDict, total=False):
    """Fields of one request; `m3agiqa.contract.ScoreRequest` says what each means, `Client.submit` what `image` is."""

    image_url: str | None
    image: Image | None
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


class Store(Protocol):
    """Where a client puts images that it is given as bytes."""

    def url(self, data: bytes) -> str: ...

    def keep(self, images: Sequence[tuple[ScoreRequest, bytes]]) -> int: ...


class Submission(NamedTuple):
    """A request, and its image where the caller gave bytes."""

    request: ScoreRequest
    image: bytes | None


def chunked(
    items: Iterable[ScoreRequest | Mapping[str, Any]], store: Store, tenant: str | None
) -> Iterator[list[Submission]]:
    """Requests of `tenant`, with the caller's span, as many as one round trip takes. Fields that are None count as left
    out.

    Raises:
        RequestInvalid: a field is wrong, a request names another tenant, or `refuse_unknown_policy` refuses it.
    """
    chunk: list[Submission] = []
    size = 0
    for item in items:
        chunk.append(one := _parsed(item, store, tenant))
        size += len(one.image or b"")
        if len(chunk) == CHUNK or size >= _CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _parsed(item: ScoreRequest | Mapping[str, Any], store: Store, tenant: str | None) -> Submission:
    data = None
    if not isinstance(item, ScoreRequest):
        fields = {name: value for name, value in item.items() if value is not None}
        if "image" in fields or is_data_url(fields.get("image_url")):
            if {"image", "image_url"} <= fields.keys():
                raise RequestInvalid("image: goes without image_url")
            data = bytes_of(fields.pop("image" if "image" in fields else "image_url"))
            fields["image_url"] = store.url(data)
        item = ScoreRequest.parse(fields)
    if tenant is not None and item.tenant != tenant:
        if item.tenant is not None:
            raise RequestInvalid(f"tenant: this client submits for {tenant} alone")
        item = item.model_copy(update={"tenant": tenant})
    refuse_unknown_policy(item)
    return Submission(traced(item), data)


def keep(store: Store, submissions: Sequence[Submission]) -> int:
    """Put the images of submissions into `store`. Returns how many submissions, from the first on, have what they need.

    Raises what `store` raises.
    """
    given = [(at, one.request, one.image) for at, one in enumerate(submissions) if one.image is not None]
    kept = store.keep([(request, image) for _, request, image in given]) if given else 0
    return given[kept][0] if kept < len(given) else len(submissions)


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


def refuse_conflicts(
    requests: Iterable[ScoreRequest],
    standing: Iterable[ScoreRequest],
    submitted: list[str],
    called: Callable[[ScoreRequest], str],
) -> None:
    """Refuse requests of which two differ under one id, or which are among `standing`: those whose ids are taken by
    other requests. `called` gives the id by which the caller knows one.

    Raises:
        RequestConflict: there are such; `submitted` were enqueued before.
    """
    first: dict[str, ScoreRequest] = {}
    repeated = [(first.setdefault(one.name, one), one) for one in requests]
    # A fingerprint takes some time, and ids are rarely there twice.
    differing = [one for before, one in repeated if before is not one and before.fingerprint != one.fingerprint]
    ids = list(dict.fromkeys(called(one) for one in [*standing, *differing]))
    if ids:
        named = ", ".join(ids[:_NAMED]) + (f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else "")
        raise RequestConflict(
            f"request_id: another request stands under {named} ({len(submitted)} enqueued)", ids, submitted
        )


def full(what: str, oldest_s: float, submitted: Sequence[str]) -> QueueFull:
    """Says when to come back: by then, workers have done about a tenth of what waits."""
    wait_s = min(max(oldest_s / 10, _RETRY_AFTER_S[0]), _RETRY_AFTER_S[1])
    return QueueFull(
        f"{what} wait already; come back in {wait_s:.0f} s ({len(submitted)} enqueued)",
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
