"""Fetches an image from a URL that a stranger gave."""

from __future__ import annotations

import hashlib
import io
import itertools
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import urljoin

import requests

from m3agiqa.errors import FetchForbidden, FetchRefused, FetchUnavailable, ImageGone, ImageTooLarge, QueueUnavailable
from m3agiqa.fields import INLINE
from m3agiqa.queue.connection import Connection
from m3agiqa.queue.images import parts
from worker import s3
from worker.score.decoding.budget import Budget, Hold
from worker.settings import Settings
from worker.shares import Share, Shares
from worker.web.answers import host_of, is_temporary, length_of, location_of, retry_after_s
from worker.web.transport import Transport
from worker.web.trust import Trust

MAX_REDIRECTS = 3
CHUNK_BYTES = 2**20
#: Bytes that are taken from the memory budget at a time while an image comes in.
HELD_AHEAD = 2**20
#: Permits to read on in a body that is longer than one chunk, and seconds after which a thread reads on without one.
#: Such a thread needs the interpreter for every chunk; many of them would keep it from threads that take requests.
LARGE_AT_A_TIME, PERMIT_WAIT_S = 2, 0.05

#: Content codings that leave a body as it is. S3 returns aws-chunked, which is how the object was once uploaded.
_UNENCODED = {"", "identity", "aws-chunked"}
#: Transfer codings that urllib3 undoes as it reads the body.
_UNDONE = {"", "identity", "chunked"}
#: Seconds until the next attempt that an image server may ask for at most.
MAX_RETRY_AFTER_S = 300.0


class Fetcher:
    """Fetches images within the limits of the settings. Safe to share among threads.

    `shares` says how many threads a server may have; a bucket counts as a server. Without it, any number. Images that
    lie beside their requests are read by `redis`.

    Raises:
        ConfigError: `fetch_allow_hosts` holds something else than `Trust` knows.
    """

    def __init__(self, settings: Settings, shares: Shares | None = None, redis: Connection | None = None) -> None:
        self._shares = shares or Shares()
        self._permits = threading.Semaphore(LARGE_AT_A_TIME)
        self._timeout_s = settings.fetch_timeout_s
        self._max_bytes = settings.fetch_max_bytes
        self._inline_max_bytes = min(settings.inline_max_bytes, settings.fetch_max_bytes)
        self._redis = redis
        self._buckets = settings.fetch_s3_buckets
        self._web = Transport(
            timeout_s=settings.fetch_timeout_s,
            trusted=Trust.from_setting("M3AGIQA_FETCH_ALLOW_HOSTS", settings.fetch_allow_hosts),
            ports=settings.fetch_ports,
            forbidden=FetchForbidden,
            unavailable=FetchUnavailable,
            user_agent=settings.effective_user_agent,
            shares=self._shares,
            first_byte_s=settings.fetch_first_byte_s,
        )
        self._missing = FetchUnavailable if settings.fetch_retry_missing else FetchRefused
        self._s3_failures = s3.Failures(
            forbidden=FetchForbidden,
            denied=FetchRefused,
            mistaken=FetchUnavailable,
            missing=self._missing,
            refused=FetchRefused,
            unavailable=FetchUnavailable,
            at_most_s=MAX_RETRY_AFTER_S,
        )
        # Looking for credentials takes time, and without a bucket nothing uses them.
        self._s3 = s3.client(settings, settings.fetch_timeout_s) if self._buckets else None

    def fetch(self, url: str, hold: Hold | None = None, request: str = "") -> bytes:
        """Return the bytes at `url`. While they come in, `hold` takes room for them from the memory budget. Those of
        `inline:SHA256` lie beside the request of the name `request`.

        Messages of failures name host and status, never path, query or credentials.

        Raises:
            FetchForbidden: scheme, address, port or bucket are not allowed, or the URL is malformed.
            FetchRefused: the server will not serve it (4xx), redirects too often, encodes it unasked, or contradicts
                itself about its length.
            FetchUnavailable: no answer, not all of it in time, 408, 425, 429 or 5xx; `retry_after_s` if the server says
                when to come again. They lie in Redis, which cannot be reached or refuses them.
            ImageGone: they lay in Redis, and do no more.
            ImageTooLarge: more than `fetch_max_bytes`, or in Redis more than `inline_max_bytes`.
            Busy: the server has all threads it may have, or the memory budget has no room; the image is still unknown.
        """
        until = time.monotonic() + self._timeout_s
        hold = hold or Hold(Budget(self._max_bytes))
        if url.lower().startswith(s3.SCHEME):
            return self._from_s3(url, until, hold)
        if inline := INLINE.fullmatch(url):
            return self._from_redis(request, inline[1], hold)
        return self._from_web(url, until, hold)

    def _from_redis(self, request: str, digest: str, hold: Hold) -> bytes:
        if self._redis is None:
            raise FetchForbidden("no Redis is there to read the image from")
        try:
            data = self._capped(parts(self._redis, request, digest), 0, hold, self._inline_max_bytes)
        except QueueUnavailable as error:
            # It counts as an attempt: this user may be forbidden to read images, whatever else it may.
            raise FetchUnavailable(f"the bytes in Redis cannot be read: {error}") from None
        if not data:
            raise ImageGone
        # Whoever may submit may write there.
        if hashlib.sha256(data).hexdigest() != digest:
            raise FetchRefused("the bytes in Redis are not those that the request names")
        return data

    def _from_web(self, url: str, until: float, hold: Hold) -> bytes:
        for _ in range(1 + MAX_REDIRECTS):
            with self._web.open("GET", url, until=until, headers={"Accept": "image/*,*/*;q=0.5"}) as response:
                if not response.is_redirect:
                    return self._body(response, hold)
                # A redirect's own body is never read: it has no limit of its own.
                url = urljoin(response.url, location_of(response))
        raise FetchRefused(f"{host_of(response)} redirects more than {MAX_REDIRECTS} times")

    def _body(self, response: requests.Response, hold: Hold) -> bytes:
        host, status = host_of(response), response.status_code
        if status != 200:
            if is_temporary(status):
                asked_for_s = retry_after_s(response.headers.get("retry-after", ""), MAX_RETRY_AFTER_S)
                raise FetchUnavailable(f"{host} answered {status}", retry_after_s=asked_for_s)
            raise (self._missing if status == 404 else FetchRefused)(f"{host} answered {status}")
        if not (_codings(response, "content") <= _UNENCODED and _codings(response, "transfer") <= _UNDONE):
            raise FetchRefused(f"{host} compressed its answer, though asked not to")
        try:
            length = length_of(response) or 0
        except ValueError:
            raise FetchRefused(f"{host} contradicts itself about its answer's length") from None
        chunks = response.raw.stream(CHUNK_BYTES, decode_content=False)
        return self._capped(chunks, length, hold)

    def _from_s3(self, url: str, until: float, hold: Hold) -> bytes:
        bucket, key = s3.split(url, self._buckets, FetchForbidden)
        assert self._s3 is not None, "a bucket is allowed, so there is a client"
        # Nothing interrupts boto3: a thread that waits in it cannot give way, and stops between chunks at best.
        with self._s3_failures.translated(bucket), self._shares.take(f"s3://{bucket}", may_give_way=False) as share:
            found = self._s3.get_object(Bucket=bucket, Key=key)
            # Some services give no length, and send in chunks, the last of which says that it is the last.
            length = found.get("ContentLength", 0)
            with found["Body"] as body:
                data = self._capped(self._chunks(body, until, share), length, hold)
        if len(data) < length:
            raise FetchUnavailable(f"s3://{bucket} broke off")
        return data

    def _chunks(self, body: Any, until: float, share: Share) -> Iterator[bytes]:
        # One wait a chunk: read() would wait for a full one however little arrives at a time.
        while chunk := body.read1(CHUNK_BYTES):
            yield chunk
            if time.monotonic() >= until:
                raise FetchUnavailable(f"S3 took more than {self._timeout_s:g} s")
            share.go_on()

    def _by_permit(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """Every thread may read the first chunk; few threads at a time read further ones."""
        yield from itertools.islice(chunks, 1)
        while True:
            permit = self._permits.acquire(timeout=PERMIT_WAIT_S)
            try:
                chunk = next(chunks, None)
                if chunk is None:
                    return
                yield chunk
            finally:
                if permit:
                    self._permits.release()

    def _capped(self, chunks: Iterable[bytes], announced: int, hold: Hold, most: int | None = None) -> bytes:
        most = most or self._max_bytes
        if announced > most:
            raise ImageTooLarge(f"{announced} bytes are more than {most}")
        body = io.BytesIO()
        held = 0
        for chunk in self._by_permit(iter(chunks)):
            body.write(chunk)
            if (size := body.tell()) > most:
                raise ImageTooLarge(f"more than {most} bytes")
            if size > held:
                held = size + HELD_AHEAD
                hold.resize(held)
        hold.resize(body.tell())
        return body.getvalue()


def _codings(response: requests.Response, kind: str) -> set[str]:
    return {word.strip() for word in response.headers.get(f"{kind}-encoding", "").lower().split(",")}
