"""`AsyncClient`: the client of a program that runs an event loop.

Waiting for verdicts takes no thread but the one that all share. Whatever else asks Redis runs in a few threads of the
client's own, so that there is one way to connect, to find the primary and to tell what went wrong.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from contextvars import copy_context
from copy import copy
from datetime import date
from functools import partial
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar, Unpack

from m3agiqa.client import submitting
from m3agiqa.client.sync import Client
from m3agiqa.contract import ScoreRequest, Verdict
from m3agiqa.errors import NewerVersion, QueueUnavailable, ResultTimeout
from m3agiqa.fields import name_of
from m3agiqa.queue.erasing import Erased, ErasedTenant
from m3agiqa.queue.standing import Status
from m3agiqa.queue.state import State
from m3agiqa.queue.usage import Usage
from m3agiqa.queue.watching import Watching

#: Threads, and so connections, that ask Redis at a time.
_THREADS = 8
#: Verdicts of which `watch` has told nobody yet, at most.
_UNREAD = 10_000

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


class AsyncClient:
    """Submits images to the queue in Redis, and waits for any number of verdicts by one connection.

    It takes the options of `Client`, and its methods mean and raise what those of `Client` do.

    A call that is cancelled may be done all the same: to submit again with the same `request_id` is safe.

    Raises:
        ConfigError: as `Client`.
    """

    def __init__(self, redis_url: str, **options: Unpack[submitting.Options]) -> None:
        self._client = Client(redis_url, **options)
        self._threads = ThreadPoolExecutor(_THREADS, "m3agiqa-client")
        self._watching = Watching(self._client._connection)

    @property
    def tenant(self) -> str | None:
        return self._client.tenant

    def for_tenant(self, tenant: str) -> Self:
        """This client for one tenant. Both share connections, which either ends with `close`."""
        one = copy(self)
        one._client = self._client.for_tenant(tenant)
        return one

    async def submit(self, **fields: Unpack[submitting.Fields]) -> str:
        """Enqueue one image; returns its request id. Takes the arguments of `Client.submit`."""
        return await self._run(partial(self._client.submit, **fields))

    async def submit_many(self, requests: Iterable[ScoreRequest | Mapping[str, Any]]) -> list[str]:
        """Enqueue many images, 500 in a round trip; returns their request ids in order."""
        return await self._run(self._client.submit_many, requests)

    async def score(self, *, timeout: float | None = None, **fields: Unpack[submitting.Fields]) -> Verdict:
        """Submit one image, and wait for its verdict at most `timeout` seconds; None waits for ever."""
        async with _within(timeout, "the image"):
            stale = await self._run(self._client._failure, fields)
            request_id = await self._run(partial(self._client.submit, **fields))
            return await self._wait(request_id, stale)

    async def result(self, request_id: str, timeout: float | None = None) -> Verdict:
        """Wait for a verdict, at most `timeout` seconds; None waits for ever, 0 only looks."""
        if timeout is not None and timeout <= 0:
            return await self._run(self._client.result, request_id, timeout)
        async with _within(timeout, request_id):
            return await self._wait(request_id)

    async def as_completed(self, request_ids: Iterable[str], timeout: float | None = None) -> AsyncIterator[Verdict]:
        """Verdicts of these requests as they come, within `timeout` seconds in all; None waits for ever."""
        waits = [asyncio.ensure_future(self._wait(request_id)) for request_id in dict.fromkeys(request_ids)]
        try:
            for verdict in asyncio.as_completed(waits, timeout=timeout):
                yield await verdict
        except TimeoutError:
            left = sum(not wait.done() for wait in waits)
            raise submitting.late(f"{left} of {len(waits)} requests", timeout) from None
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    @asynccontextmanager
    async def watch(self, batch_id: str | None = None) -> AsyncIterator[AsyncIterator[Verdict]]:
        """Verdicts as they come while the block runs, whoever submitted: of the tenant, or of all; with `batch_id`,
        those of that batch. Takes the rights of an operator.

        Raises:
            QueueUnavailable: Redis cannot be reached, or was away, so that some may have been missed; or the block
                is ten thousand verdicts late.
        """
        loop = asyncio.get_running_loop()
        heard: asyncio.Queue[str | None] = asyncio.Queue()
        within = name_of(self._client.tenant, "") if self._client.tenant else ""

        def hear(name: str | None) -> None:
            if name is None or name.startswith(within):
                loop.call_soon_threadsafe(heard.put_nowait, name and name.removeprefix(within))

        with self._watching.listen(hear):
            await self._run(self._watching.begin, hear)
            yield self._heard(heard, batch_id)

    async def _heard(self, heard: asyncio.Queue[str | None], batch_id: str | None) -> AsyncIterator[Verdict]:
        while (request_id := await heard.get()) is not None and heard.qsize() < _UNREAD:
            try:
                verdict = await self.result(request_id, timeout=0)
            except (ResultTimeout, NewerVersion):  # it was erased since, or is for a later version
                continue
            if batch_id in (None, verdict.batch_id):
                yield verdict
        raise QueueUnavailable("verdicts came meanwhile that were not told")

    async def _wait(self, request_id: str, stale: str | None = None) -> Verdict:
        wait = self._client._waiting.add(self._client._name(request_id), stale)
        try:
            return submitting.read(await asyncio.wrap_future(wait), request_id)
        finally:
            self._client._waiting.discard(wait)

    async def state(self, request_id: str) -> State | None:
        """Where a request is; None before a worker has taken it in, and when it is forgotten."""
        return await self._run(self._client.state, request_id)

    async def history(self, request_id: str) -> tuple[str, ...]:
        """What happened to a request: a line for each event with its Unix time, the newest last."""
        return await self._run(self._client.history, request_id)

    async def status_many(self, request_ids: Iterable[str]) -> dict[str, Status]:
        """Where requests are, how many wait before them, and for how long, 500 in two round trips."""
        return await self._run(self._client.status_many, request_ids)

    async def cancel(self, request_id: str) -> bool:
        """Take a request back. False if it was answered before. Takes the rights of an operator."""
        return await self._run(self._client.cancel, request_id)

    async def page(self, cursor: int = 0, limit: int = 500, batch_id: str | None = None) -> tuple[list[Verdict], int]:
        """Some of the verdicts that are in Redis, and the cursor of the next page; see `Client.page`."""
        return await self._run(self._client.page, cursor, limit, batch_id)

    async def take_in(self) -> None:
        """Admit what producers submitted, as workers do. Takes the rights of an operator."""
        await self._run(self._client.take_in)

    async def ping(self) -> bool:
        """Whether Redis answers."""
        return await self._run(self._client._connection.answers)

    async def erase(self, request_id: str, *, objects: bool = False) -> Erased:
        """Remove every trace of a request from Redis, with `objects` from S3 too; says what it was. Takes the rights of
        an operator.
        """
        return await self._run(partial(self._client.erase, request_id, objects=objects))

    async def erase_tenant(self, tenant: str, *, keep_usage: bool = False, objects: bool = False) -> ErasedTenant:
        """Remove every trace of a tenant from Redis, with `objects` from S3 too; says how much it was. Takes the rights
        of an operator.
        """
        return await self._run(partial(self._client.erase_tenant, tenant, keep_usage=keep_usage, objects=objects))

    async def usage(self, first: date | None = None, last: date | None = None) -> list[Usage]:
        """What tenants used on each day from `first` to `last` (UTC), both included, by default the last 30."""
        return await self._run(self._client.usage, first, last)

    async def waiting(self) -> int:
        """Requests that no worker has begun; with a tenant, its own that are admitted."""
        return await self._run(self._client.waiting)

    async def _run(
        self, ask: Callable[_Arguments, _Result], *arguments: _Arguments.args, **options: _Arguments.kwargs
    ) -> _Result:
        # With the caller's context, in which OpenTelemetry keeps the caller's span.
        asking = partial(copy_context().run, ask, *arguments, **options)
        return await asyncio.get_running_loop().run_in_executor(self._threads, asking)

    async def close(self) -> None:
        await self._run(self._watching.close)
        await self._run(self._client.close)
        self._threads.shutdown(wait=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


@asynccontextmanager
async def _within(timeout: float | None, what: str) -> AsyncIterator[None]:
    """Raise ResultTimeout after `timeout` seconds."""
    try:
        async with asyncio.timeout(timeout):
            yield
    except TimeoutError:
        raise submitting.late(what, timeout) from None
