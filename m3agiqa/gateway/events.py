"""Verdicts as they come, as server-sent events.

An event is `verdict` with the verdict as JSON, its id that of the request; `end` when a stream over ids has told all;
`error` with a problem when some verdicts may have been missed. Between them come comments as signs of life.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AbstractContextManager, aclosing, asynccontextmanager

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from m3agiqa.client import AsyncClient
from m3agiqa.contract import Verdict
from m3agiqa.errors import M3AGIQAError
from m3agiqa.gateway.problems import problem_of
from m3agiqa.quoting import quoted

#: Id of the last event of a stream that is complete: who comes back with it is sent away.
END = "end"
_ALIVE = ": alive\n\n"


class Events(StreamingResponse):
    """A stream that keeps its place until it ends, however it ends."""

    def __init__(self, texts: AsyncGenerator[str], place: AbstractContextManager[None]) -> None:
        super().__init__(texts, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
        self._texts = texts
        self._place = place
        place.__enter__()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with aclosing(self._texts):
                await super().__call__(scope, receive, send)
        finally:
            self._place.__exit__(None, None, None)


async def stream(
    client: AsyncClient, ids: Sequence[str], batch_id: str | None, heartbeat_s: float, most_s: float
) -> AsyncGenerator[str]:
    """Events about requests of these ids; without ids, about all of the client's tenant, or of one batch.

    Ends after `most_s` seconds, and sends a sign of life after `heartbeat_s` without an event.
    """
    try:
        async with _source(client, ids, batch_id) as verdicts:
            yield _ALIVE
            async with aclosing(_beating(verdicts, heartbeat_s, most_s)) as told:
                async for verdict in told:
                    if verdict is None:
                        yield _ALIVE
                    elif verdict.tenant == client.tenant:
                        yield _event("verdict", verdict.model_dump_json(), quoted(verdict.request_id, 128))
    except TimeoutError:
        return
    except M3AGIQAError as error:
        yield _event("error", json.dumps(problem_of(error).content))
        return
    yield _event("end", "{}", END)


@asynccontextmanager
async def _source(
    client: AsyncClient, ids: Sequence[str], batch_id: str | None
) -> AsyncIterator[AsyncIterator[Verdict]]:
    if not ids:
        async with client.watch(batch_id) as verdicts:
            yield verdicts
    else:
        async with aclosing(client.as_completed(ids)) as verdicts:  # type: ignore[type-var]
            yield verdicts


async def _beating(
    verdicts: AsyncIterator[Verdict], heartbeat_s: float, most_s: float
) -> AsyncGenerator[Verdict | None]:
    """The verdicts, and None after each `heartbeat_s` seconds without one. Raises TimeoutError after `most_s`."""
    loop = asyncio.get_running_loop()
    until = loop.time() + most_s
    coming = asyncio.ensure_future(_next(verdicts))
    try:
        while (left := until - loop.time()) > 0:
            await asyncio.wait({coming}, timeout=min(heartbeat_s, left))
            if not coming.done():
                yield None
                continue
            if (verdict := coming.result()) is None:
                return
            coming = asyncio.ensure_future(_next(verdicts))
            yield verdict
        raise TimeoutError
    finally:
        coming.cancel()
        await asyncio.gather(coming, return_exceptions=True)


async def _next(verdicts: AsyncIterator[Verdict]) -> Verdict | None:
    return await anext(verdicts, None)


def _event(name: str, data: str, event_id: str | None = None) -> str:
    # JSON has no line breaks of its own, and what is quoted has none either: no verdict can begin an event.
    return f"event: {name}\n" + (f"id: {event_id}\n" if event_id else "") + f"data: {data}\n\n"
