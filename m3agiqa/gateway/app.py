"""The application: routes, who may, and what each does with the queue."""

from __future__ import annotations

import asyncio
import logging
import math
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, nullcontext
from datetime import UTC, datetime

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from m3agiqa.client import AsyncClient, State, Status, Verdict
from m3agiqa.errors import QuotaExceeded, ResultTimeout, UsageError
from m3agiqa.fields import is_request_id
from m3agiqa.gateway import bodies, events, openapi
from m3agiqa.gateway.keys import Keyring
from m3agiqa.gateway.limits import Places, Rates
from m3agiqa.gateway.problems import Problem, invalid, not_found, problem_of, unauthorized
from m3agiqa.gateway.settings import Settings
from m3agiqa.queue.address import Address
from m3agiqa.tenants import Tenants

logger = logging.getLogger(__name__)

#: Ids of a stream, and verdicts of a page, at most.
MOST_IDS, MOST_VERDICTS = 500, 500
#: Steps that look through much of Redis, of which so many run at a time: others do not wait for them.
_HEAVY = 2
#: Seconds after which a tenant that has all it may have is told to come back.
_QUOTA_AGAIN_S = 60.0
#: Seconds after which a client is told to ask again, at least and at most.
_ASK_AGAIN_S = (1, 60)
_NUMBER = re.compile(r"[0-9]{1,20}(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?")

Handler = Callable[["Gateway", Request, AsyncClient], Awaitable[Response]]


class Gateway:
    """What every request shares."""

    def __init__(self, settings: Settings, client: AsyncClient, tenants: Tenants) -> None:
        self._settings = settings
        self._client = client
        self._keys = Keyring(settings.keys_file)
        self._rates = Rates(settings.requests_per_s, settings.burst)
        self._waits = Places("open waits", settings.max_waits, settings.waits_per_tenant)
        self._uploads = Places("uploads", settings.max_uploads, settings.uploads_per_tenant)
        self._tenants = tenants
        self._heavy = asyncio.Semaphore(_HEAVY)

    async def submit(self, request: Request, client: AsyncClient) -> Response:
        place = self._uploads.one(_tenant(client)) if bodies.is_upload(request) else nullcontext()
        with place:
            await self._refuse_beyond_quota(client)
            asked = await bodies.read(request, self._settings.max_image_bytes, self._settings.body_timeout_s)
            if "idempotency-key" in request.headers:
                await self._settle(client, asked.request_id if not isinstance(asked, dict) else asked["request_id"])
            [request_id] = await client.submit_many([asked])
        return JSONResponse({"request_id": request_id}, 202, {"Location": f"/v1/images/{request_id}"})

    async def show(self, request: Request, client: AsyncClient) -> Response:
        request_id = _request_id(request)
        wait_s = _number(_query(request, "wait").get("wait", "0"), "wait", self._settings.max_wait_s)
        if (verdict := await self._verdict(client, request_id, 0)) is not None:
            return _json(verdict)
        status = await self._status(client, request_id)
        if wait_s > 0:
            with self._waits.one(_tenant(client)):
                verdict = await self._verdict(client, request_id, wait_s)
            if verdict is not None:
                return _json(verdict)
            status = await self._status(client, request_id)
        least, most = _ASK_AGAIN_S
        again_s = min(max(math.ceil(status.expected_s or 0), least), most)
        return Response(status.model_dump_json(), 202, {"Retry-After": str(again_s)}, "application/json")

    async def remove(self, request: Request, client: AsyncClient) -> Response:
        request_id = _request_id(request)
        erase = _query(request, "erase").get("erase", "false")
        if erase not in ("true", "false"):
            raise invalid("erase: must be true or false")
        async with self._heavy:
            if erase == "true":
                erased = (await client.erase(request_id)).model_copy(update={"request_id": request_id})
                return Response(erased.model_dump_json(), media_type="application/json")
            try:
                cancelled = await client.cancel(request_id)
            except UsageError:
                raise not_found() from None
        return JSONResponse({"request_id": request_id, "cancelled": cancelled})

    async def list(self, request: Request, client: AsyncClient) -> Response:
        query = _query(request, "cursor", "limit", "batch_id")
        cursor = query.get("cursor", "0")
        if not re.fullmatch(r"[0-9]{1,20}", cursor) or int(cursor) >= 2**64:
            raise invalid("cursor: must be one that the page before gave")
        limit = _number(query.get("limit", "100"), "limit", MOST_VERDICTS, least=1)
        if limit != int(limit):
            raise invalid("limit: must be a whole number")
        async with self._heavy:
            verdicts, after = await client.page(int(cursor), int(limit), _batch_id(query))
        found = ",".join(verdict.model_dump_json() for verdict in verdicts)
        told = f'"{after}"' if after else "null"
        return Response(f'{{"verdicts":[{found}],"cursor":{told}}}', media_type="application/json")

    async def events(self, request: Request, client: AsyncClient) -> Response:
        query = _query(request, "ids", "batch_id")
        ids = query["ids"].split(",") if "ids" in query else []
        batch_id = _batch_id(query)
        if ids and (batch_id is not None or len(ids) > MOST_IDS or not all(map(is_request_id, ids))):
            raise invalid(f"ids: must be up to {MOST_IDS} request ids between commas, and goes without batch_id")
        if request.headers.get("last-event-id") == events.END:
            return Response(status_code=204)
        settings = self._settings
        texts = events.stream(client, ids, batch_id, settings.heartbeat_s, settings.max_stream_s)
        return events.Events(texts, self._waits.one(_tenant(client)))

    async def alive(self, _: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def ready(self, _: Request) -> Response:
        answers = await self._client.ping()
        return JSONResponse({"status": "ok" if answers else "no Redis"}, 200 if answers else 503)

    async def _refuse_beyond_quota(self, client: AsyncClient) -> None:
        """Say at once what workers would answer by a verdict, which is still theirs to judge."""
        terms = self._tenants.terms(client.tenant)
        if terms.failure is None:
            return
        if terms.failure.code != QuotaExceeded.code:
            raise Problem(403, terms.failure.code, terms.failure.message)
        if terms.max_waiting is not None and await client.waiting() >= terms.max_waiting:
            raise Problem(429, terms.failure.code, terms.failure.message, retry_after_s=_QUOTA_AGAIN_S)
        if terms.images_per_day is not None:
            today = datetime.now(UTC).date()
            if sum(used.admitted for used in await client.usage(today, today)) >= terms.images_per_day:
                raise Problem(429, terms.failure.code, terms.failure.message, retry_after_s=_QUOTA_AGAIN_S)

    async def _settle(self, client: AsyncClient, request_id: str) -> Status:
        """Where a request is, after Redis took in what was submitted, if it must."""
        status = (await client.status_many([request_id]))[request_id]
        if status.state is None:
            async with self._heavy:
                await client.take_in()
            status = (await client.status_many([request_id]))[request_id]
        return status

    async def _status(self, client: AsyncClient, request_id: str) -> Status:
        """Raises a Problem of status 404 if there is no such request, or its verdict is kept no more."""
        status = await self._settle(client, request_id)
        is_over = status.state in (None, State.SETTLED, State.CANCELLED)
        # Its verdict may have come since it was looked for.
        if is_over and await self._verdict(client, request_id, 0) is None:
            raise not_found()
        return status

    async def _verdict(self, client: AsyncClient, request_id: str, wait_s: float) -> Verdict | None:
        try:
            verdict = await client.result(request_id, timeout=wait_s)
        except ResultTimeout:
            return None
        # What a stranger wrote into Redis under a tenant's name is none of his.
        return verdict if verdict.tenant == _tenant(client) else None

    def for_tenants(self, **handlers: Handler) -> Callable[[Request], Awaitable[Response]]:
        """An endpoint for those who have a key, by method."""

        async def answer(request: Request) -> Response:
            kind, _, key = request.headers.get("authorization", "").partition(" ")
            tenant = self._keys.tenant_of(key.strip()) if kind.lower() == "bearer" else None
            if tenant is None:
                raise unauthorized()
            self._rates.take(tenant)
            method = "GET" if request.method == "HEAD" else request.method
            handle = handlers[method]
            begun = time.monotonic()
            status = 500
            try:
                response = await _told(handle(self, request, self._client.for_tenant(tenant)))
                status = response.status_code
                return response
            finally:
                spent_ms = 1000 * (time.monotonic() - begun)
                logger.info("%s %s for %s: %d in %.0f ms", method, handle.__name__, tenant, status, spent_ms)

        return answer


async def _told(answer: Awaitable[Response]) -> Response:
    """The answer, or the problem instead of it."""
    try:
        return await answer
    except ClientDisconnect:
        return Response(status_code=400)  # nobody reads it
    except Exception as error:
        return problem_of(error).response()


async def _problem(_: Request, error: Exception) -> Response:
    headers = error.headers if isinstance(error, HTTPException) else None
    return problem_of(error).response(dict(headers or {}))


def make(settings: Settings, redis_url: str) -> Starlette:
    """The application, as a client of that Redis.

    Raises:
        ConfigError: the file of keys cannot be read.
    """
    tenants = Tenants(listed=settings.tenants == "listed")
    client = AsyncClient(
        redis_url, max_queued=settings.max_queued, inline_max_bytes=settings.max_image_bytes, tenants=tenants
    )
    gateway = Gateway(settings, client, tenants)
    document = openapi.text(settings)

    async def describe(_: Request) -> Response:
        return Response(document, media_type="application/json")

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with client:
            yield

    images = {"GET": Gateway.list, "POST": Gateway.submit}
    image = {"GET": Gateway.show, "DELETE": Gateway.remove}
    stream = {"GET": Gateway.events}
    routes = [
        *(
            Route(path, gateway.for_tenants(**handlers), methods=[*handlers])
            for path, handlers in {"/v1/images": images, "/v1/images/{id}": image, "/v1/events": stream}.items()
        ),
        Route("/v1/openapi.json", describe),
        Route("/healthz", gateway.alive),
        Route("/readyz", gateway.ready),
    ]
    app = Starlette(
        routes=routes,
        exception_handlers={HTTPException: _problem, Problem: _problem},
        lifespan=lifespan,
    )
    # It would send clients to whatever host they named.
    app.router.redirect_slashes = False
    return app


def from_environment() -> Starlette:
    """The application as the environment has it.

    Raises:
        ConfigError: a setting is wrong, or the file of keys cannot be read.
    """
    return make(Settings.from_environment(), Address.from_environment().url)


def _tenant(client: AsyncClient) -> str:
    assert client.tenant is not None
    return client.tenant


def _json(verdict: Verdict) -> Response:
    return Response(verdict.model_dump_json(), media_type="application/json")


def _request_id(request: Request) -> str:
    request_id = request.path_params["id"]
    if not is_request_id(request_id):
        raise not_found()
    return str(request_id)


def _query(request: Request, *known: str) -> Mapping[str, str]:
    """The parameters of a request, each of which stands once."""
    found: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name not in known or name in found:
            raise invalid(f"parameters are {', '.join(known)}, each once")
        found[name] = value
    return found


def _batch_id(query: Mapping[str, str]) -> str | None:
    batch_id = query.get("batch_id")
    if batch_id is not None and not is_request_id(batch_id):
        raise invalid("batch_id: must look like a request id")
    return batch_id


def _number(text: str, name: str, most: float, least: float = 0) -> float:
    if not _NUMBER.fullmatch(text) or not least <= float(text) <= most:
        raise invalid(f"{name}: must be a number from {least:g} to {most:g}")
    return float(text)
