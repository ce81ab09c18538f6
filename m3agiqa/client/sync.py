"""`Client`: submit images, wait for verdicts."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent import futures
from copy import copy
from datetime import datetime
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from m3agiqa.client import submitting
from m3agiqa.client.bucket import UPLOAD, Bucket
from m3agiqa.client.images import Image
from m3agiqa.client.operating import Operator
from m3agiqa.client.reading import tenant_named
from m3agiqa.client.removing import remove_objects
from m3agiqa.contract import Priority, ScoreRequest, Verdict
from m3agiqa.errors import QueueUnavailable, UploadError
from m3agiqa.queue import images, inbox, keys
from m3agiqa.queue.connection import Connection
from m3agiqa.queue.erasing import Erased, ErasedTenant
from m3agiqa.queue.images import InlineImages
from m3agiqa.queue.waiting import Waiting
from m3agiqa.tenants import Tenants

#: Threads that ask Redis at a time; others wait for their turn. Those that wait for verdicts need no connection.
_AT_ONCE = 32

_Item = TypeVar("_Item")


class Client(Operator):
    """Submits images to the queue in Redis, and reads verdicts. Safe to share between threads.

    `submit` refuses while `max_queued` requests wait. `?namespace=NAME` at the end of `redis_url` is the namespace of
    the workers, their M3AGIQA_NAMESPACE; this class does not read that variable.

    With a `tenant`, it submits for that one alone, and every id is one of the tenant's. Without one, ids of requests
    that have a tenant are `TENANT/ID`.

    Images that it is given as bytes go to `upload`, `s3://bucket/prefix`, which M3AGIQA_UPLOAD names by default. With
    no such place they go into Redis, each of at most `inline_max_bytes`, for `inline_ttl_s` seconds, while those that
    wait have less than `inline_budget_bytes` in all.

    What an operator has it take in counts against no limits of tenants, unless it is given their files as `tenants`.

    Raises:
        ConfigError: `redis_url` is no Redis URL, `upload` no place in S3, or `tenant` no name of one.
    """

    def __init__(
        self,
        redis_url: str,
        *,
        tenant: str | None = None,
        max_queued: int = submitting.MAX_QUEUED,
        upload: str | None = None,
        inline_max_bytes: int = images.MAX_BYTES,
        inline_budget_bytes: int = images.BUDGET_BYTES,
        inline_ttl_s: int = images.TTL_S,
        tenants: Tenants | None = None,
    ) -> None:
        super().__init__(Connection(redis_url, at_once=_AT_ONCE), tenant, tenants)
        # `AsyncClient` waits by this as well.
        self._waiting = Waiting(self._connection)
        self._max_queued = max_queued
        place = upload or os.environ.get(UPLOAD)
        self._store: submitting.Store = (
            Bucket(place)
            if place
            else InlineImages(self._connection, inline_max_bytes, inline_budget_bytes, inline_ttl_s)
        )

    def for_tenant(self, tenant: str) -> Self:
        """This client for one tenant. Both share connections, which either ends with `close`.

        Raises:
            ConfigError: `tenant` is no name of one.
        """
        one = copy(self)
        one.tenant = tenant_named(tenant)
        return one

    def submit(
        self,
        *,
        image_url: str | None = None,
        image: Image | None = None,
        prompt: str,
        callback_url: str | None = None,
        s3_uri: str | None = None,
        aspects: Sequence[str] | None = None,
        policy: str | None = None,
        priority: Priority = 3,
        request_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        expires_at: datetime | None = None,
        batch_id: str | None = None,
        retry_failed: bool = False,
    ) -> str:
        """Enqueue one image; returns its request id. `m3agiqa.contract.ScoreRequest` says what each field means.

        To submit a request again under its `request_id` is safe: it has one task and one verdict. If that is settled
        with a failure, `retry_failed` has it tried anew; until a worker has taken this in, `result` gives the failure.

        Instead of `image_url` it takes an `image`: the bytes of a file, a path to one, a file open for bytes, an image
        of Pillow's, or a `data:` URL. It is uploaded to the bucket, or lies in Redis until it has its verdict.

        The first request under an id stands. A different one becomes a dead letter, instead of a RequestConflict here,
        where no worker has taken in the first yet.

        Raises:
            RequestInvalid: a field is wrong, or `refuse_unknown_policy` refuses it.
            RequestConflict: another request stands under its id.
            QueueFull: too many requests wait, or too many bytes of images; says when to come back.
            UploadError: the bucket does not take the image.
            ConfigError: there is no boto3 to upload it with.
            QueueUnavailable: Redis cannot be reached; submitting again with the same `request_id` is safe.
        """
        fields = {
            "image_url": image_url,
            "image": image,
            "prompt": prompt,
            "callback_url": callback_url,
            "s3_uri": s3_uri,
            "aspects": aspects,
            "policy": policy,
            "priority": priority,
            "request_id": request_id,
            "metadata": metadata,
            "expires_at": expires_at,
            "batch_id": batch_id,
            "retry_failed": retry_failed or None,
        }
        return self.submit_many([fields])[0]

    def submit_many(self, requests: Iterable[ScoreRequest | Mapping[str, Any]]) -> list[str]:
        """Enqueue many images, 500 in a round trip; returns their request ids in order.

        Each is a ScoreRequest or a mapping of its fields, with `image` as `submit` takes it. A wrong one ends the call;
        the round trips before its own are done by then.

        Raises:
            RequestInvalid: a field of a request is wrong, or `refuse_unknown_policy` refuses one.
            RequestConflict: other requests stand under some ids; says which, and what was enqueued.
            QueueFull: too many requests wait, or too many bytes of images; says when to come back, and which were
                enqueued.
            UploadError: the bucket does not take an image; says how many requests were enqueued for certain.
            QueueUnavailable: Redis cannot be reached; says how many requests were enqueued for certain.
        """
        ids: list[str] = []
        for chunk in submitting.chunked(requests, self._store, self.tenant):
            parsed = [one.request for one in chunk]
            try:
                with self._connection.redis() as redis:
                    waiting, standing = inbox.look(redis, parsed, self._key)
                submitting.refuse_conflicts(parsed, standing, ids, self._id)
                room = max(0, self._max_queued - waiting)
                kept = submitting.keep(self._store, chunk[:room])
                with self._connection.redis() as redis:
                    inbox.push(redis, parsed[:kept], self._key, replicas=self._connection.replicas)
            except (QueueUnavailable, UploadError) as error:
                raise type(error)(f"{error} ({len(ids)} enqueued before)") if ids else error from None
            ids += [self._id(request) for request in parsed[:kept]]
            if kept < len(parsed):
                oldest_s = float(self._connection.call("get", self._key(keys.OLDEST)) or 0)
                what = f"{self._max_queued} requests" if room < len(parsed) else "as many bytes of images as may"
                raise submitting.full(what, oldest_s, ids)
        return ids

    def score(self, *, timeout: float | None = None, **fields: Unpack[submitting.Fields]) -> Verdict:
        """Submit one image, and wait for its verdict at most `timeout` seconds; None waits for ever.

        Takes the arguments of `submit`, and raises what `submit` and `result` raise. With `retry_failed`, it waits for
        the verdict of the new try. A request that is not settled yet, or that workers gave up, is not tried anew, so
        that its failure stands and ResultTimeout is raised.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        stale = self._failure(fields)
        request_id = self.submit(**fields)
        return self._wait(request_id, timeout, deadline, stale)

    def _failure(self, fields: submitting.Fields) -> str | None:
        """The verdict as JSON, if it is failed, of a request that is to be tried anew; None if there is no such."""
        request_id = fields.get("request_id")
        if request_id is None or not fields.get("retry_failed"):
            return None
        text = self._connection.call("get", self._key(keys.result(self._name(request_id))))
        return text if text is not None and submitting.read(text, request_id).status == "failed" else None

    def result(self, request_id: str, timeout: float | None = None) -> Verdict:
        """Wait for a verdict, at most `timeout` seconds; None waits for ever, 0 only looks.

        However many threads wait, all take one connection and one thread, which `close` ends. They outlive a Redis that
        is away for less than a minute.

        Raises:
            ResultTimeout: no verdict within that time. It may still come, or may have expired.
            NewerVersion: the verdict is of a later version.
            QueueUnavailable: Redis cannot be reached.
        """
        return self._wait(request_id, timeout, None if timeout is None else time.monotonic() + timeout)

    def _wait(
        self, request_id: str, timeout: float | None, deadline: float | None, stale: str | None = None
    ) -> Verdict:
        text = self._connection.call("get", self._key(keys.result(self._name(request_id))))
        if text is not None and text != stale:
            return submitting.read(str(text), request_id)
        left_s = None if deadline is None else deadline - time.monotonic()
        if left_s is not None and left_s <= 0:
            raise submitting.late(request_id, timeout)
        wait = self._waiting.add(self._name(request_id), stale)
        try:
            return submitting.read(wait.result(left_s), request_id)
        except TimeoutError:
            raise submitting.late(request_id, timeout) from None
        finally:
            self._waiting.discard(wait)

    def as_completed(self, request_ids: Iterable[str], timeout: float | None = None) -> Iterator[Verdict]:
        """Verdicts of these requests as they come, within `timeout` seconds in all; None waits for ever.

        Raises what `result` raises.
        """
        waits = {self._waiting.add(self._name(request_id)): request_id for request_id in dict.fromkeys(request_ids)}
        try:
            for wait in futures.as_completed(waits, timeout):
                yield submitting.read(wait.result(), waits[wait])
        except TimeoutError:
            left = sum(not wait.done() for wait in waits)
            raise submitting.late(f"{left} of {len(waits)} requests", timeout) from None
        finally:
            for wait in waits:
                self._waiting.discard(wait)

    def erase(self, request_id: str, *, objects: bool = False) -> Erased:
        """Remove every trace of a request from Redis; says what it was, and which objects in S3 are still there.

        With `objects`, it removes these too, with the credentials of this process: verdicts, those that were decided
        anew, and the image if it lies in this client's `upload`. Another request for the same image has it in common.

        Raises:
            UsageError: this is no request id.
            ConfigError: boto3 is missing, or the AWS tools' variables are wrong.
            QueueUnavailable: Redis cannot be reached, or forbids this user to.
        """
        erased = super().erase(request_id)
        if not objects:
            return erased
        gone, left = self._remove(erased.s3_objects, [erased.s3_image] if erased.s3_image else [])
        image = None if erased.s3_image in gone else erased.s3_image
        return erased.model_copy(update={"s3_objects": left, "s3_image": image, "s3_removed": gone})

    def erase_tenant(self, tenant: str, *, keep_usage: bool = False, objects: bool = False) -> ErasedTenant:
        """Remove every trace of all requests of a tenant from Redis, and what it used unless that is to be kept; says
        how much it was, and which objects in S3 are still there. `objects` is as for `erase`. What is submitted for the
        tenant meanwhile is left.

        Raises:
            UsageError: this is no name of a tenant, or another than this client's.
            ConfigError: boto3 is missing, or the AWS tools' variables are wrong.
            QueueUnavailable: Redis cannot be reached, or forbids this user to.
        """
        erased = super().erase_tenant(tenant, keep_usage=keep_usage)
        if not objects:
            return erased
        gone, left = self._remove(erased.s3_objects, erased.s3_images)
        images = tuple(uri for uri in erased.s3_images if uri not in gone)
        return erased.model_copy(update={"s3_objects": left, "s3_images": images, "s3_removed": gone})

    def _remove(self, verdicts: Sequence[str], images: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Remove verdicts, and those of the images that were uploaded here. Returns what is gone, and which verdicts
        are still there.
        """
        ours = [uri for uri in dict.fromkeys(images) if isinstance(self._store, Bucket) and self._store.holds(uri)]
        if not verdicts and not ours:
            return (), ()
        gone, left = remove_objects(verdicts, ours)
        return gone, tuple(uri for uri in verdicts if uri in left)

    def close(self) -> None:
        self._waiting.close()
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
