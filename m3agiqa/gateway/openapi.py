"""The description of the gateway (OpenAPI 3.1), made of the contract's JSON Schemas and of the settings."""

from __future__ import annotations

import json
from typing import Any

from m3agiqa.client import Status
from m3agiqa.contract import VERSION
from m3agiqa.gateway import examples
from m3agiqa.gateway.bodies import ELSEWHERE
from m3agiqa.gateway.settings import Settings
from m3agiqa.queue.erasing import Erased
from m3agiqa.schemas import schemas

_ID = {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"}
_PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "code", "detail"],
    "properties": {
        "type": {"type": "string", "const": "about:blank"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string", "description": "What failed, for programs."},
        "detail": {"type": "string"},
    },
}
#: What each status of an error means. Every operation may answer with those of the first line.
_ERRORS = {
    "400": "The body is not JSON, or no form.",
    "401": "There is no valid API key.",
    "403": "The tenant is served nothing, as far as its operator has said.",
    "404": "There is no such request, or its verdict is kept no more.",
    "408": "The body did not come in time.",
    "409": "Another request stands under this id or Idempotency-Key.",
    "413": "The body is too large.",
    "415": "The body is neither JSON nor a form.",
    "422": "A field or parameter is wrong.",
    "429": "The tenant asks too often, or has too much open.",
    "500": "A defect, or a wrong set-up.",
    "503": "The queue is full or cannot be reached, or too much is open.",
}
_ALWAYS = ("401", "422", "429", "500", "503")


def text(settings: Settings) -> str:
    return json.dumps(document(settings))


def document(settings: Settings) -> dict[str, Any]:
    """The description, with the limits of these settings."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "m3agiqa gateway",
            "version": VERSION,
            "description": "Submit images, and get verdicts about them. Ids are those of the key's tenant.",
        },
        "security": [{"key": []}],
        "paths": {
            "/v1/images": {"post": _submit(), "get": _list()},
            "/v1/images/{id}": {
                "parameters": [_parameter("id", "path", _ID, required=True, example=examples.ID)],
                "get": _show(settings),
                "delete": _remove(),
            },
            "/v1/events": {"get": _events()},
            "/v1/openapi.json": {"get": _open("describe", "This description.")},
            "/healthz": {"get": _open("alive", "Whether the gateway runs.")},
            "/readyz": {"get": _open("ready", "Whether the gateway reaches Redis.", "503")},
        },
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "schemas": _schemas(),
        },
    }


def _submit() -> dict[str, Any]:
    form = {
        "type": "object",
        "required": ["image", "request"],
        "additionalProperties": False,
        "properties": {
            "image": {"type": "string", "contentMediaType": "application/octet-stream"},
            "request": _ref("Upload"),
        },
    }
    prompt = {name: value for name, value in examples.request().items() if name != "image_url"}
    key = {"type": "string", "pattern": "^[!-~]{1,255}$"}
    return {
        "operationId": "submit",
        "summary": "Submit an image by its URL, or upload it.",
        "parameters": [_parameter("Idempotency-Key", "header", key, example="order-4711")],
        "requestBody": {
            "required": True,
            "content": {
                **_json(_ref("Request"), examples.request()),
                "multipart/form-data": {
                    "schema": form,
                    "encoding": {
                        "image": {"contentType": "application/octet-stream"},
                        "request": {"contentType": "application/json"},
                    },
                    "example": {"image": "the bytes of the file", "request": prompt},
                },
            },
        },
        "responses": {
            "202": {
                "description": "It waits for its score.",
                "headers": {"Location": {"required": True, "schema": {"type": "string"}}},
                "content": _json(_ref("Submitted"), {"request_id": examples.ID}),
                "links": {
                    name: {"operationId": name, "parameters": {"id": "$response.body#/request_id"}}
                    for name in ("show", "remove")
                },
            },
            **_errors("400", "403", "408", "409", "413", "415"),
        },
    }


def _list() -> dict[str, Any]:
    example = {"verdicts": [examples.verdict()], "cursor": "5120"}
    return {
        "operationId": "list",
        "summary": "Verdicts that Redis holds, in no particular order. A page may have a few more than `limit`, or "
        "fewer, or none; the last one has no cursor.",
        "parameters": [
            _parameter("cursor", "query", {"type": "string", "pattern": "^[0-9]{1,19}$"}),
            _parameter("limit", "query", {"type": "integer", "minimum": 1, "maximum": 500, "default": 100}),
            _parameter("batch_id", "query", _ID),
        ],
        "responses": {"200": _answer("A page.", _ref("Page"), example), **_errors()},
    }


def _show(settings: Settings) -> dict[str, Any]:
    wait = {"type": "number", "minimum": 0, "maximum": settings.max_wait_s, "default": 0}
    return {
        "operationId": "show",
        "summary": "The verdict about an image; waits for it up to `wait` seconds.",
        "parameters": [_parameter("wait", "query", wait)],
        "responses": {
            "200": _answer("The verdict.", _ref("Verdict"), examples.verdict()),
            "202": _answer("There is none yet.", _ref("Status"), examples.status())
            | {"headers": {"Retry-After": {"required": True, "schema": {"type": "integer"}}}},
            **_errors("404"),
        },
    }


def _remove() -> dict[str, Any]:
    schema = {"anyOf": [_ref("Cancelled"), _ref("Erased")]}
    shown = {
        "cancelled": {"value": {"request_id": examples.ID, "cancelled": True}},
        "erased": {"value": examples.erased()},
    }
    return {
        "operationId": "remove",
        "summary": "Take a request back; with `erase`, remove every trace of it from Redis.",
        "parameters": [_parameter("erase", "query", {"type": "string", "enum": ["true", "false"], "default": "false"})],
        "responses": {
            "200": {
                "description": "Done; `cancelled` is false for one that was answered before.",
                "content": {"application/json": {"schema": schema, "examples": shown}},
            },
            **_errors("404"),
        },
    }


def _events() -> dict[str, Any]:
    ids = {"type": "string", "pattern": f"^{_ID['pattern'][1:-1]}(,{_ID['pattern'][1:-1]}){{0,499}}$"}
    return {
        "operationId": "events",
        "summary": "Verdicts as they come, as server-sent events: about `ids`, a batch, or all of the tenant.",
        "parameters": [
            _parameter("ids", "query", ids),
            _parameter("batch_id", "query", _ID),
            _parameter("Last-Event-ID", "header", {"type": "string"}),
        ],
        "responses": {
            "200": {
                "description": "Events `verdict`, `end` and `error`, each with JSON.",
                "content": {"text/event-stream": {"schema": {"type": "string"}}},
            },
            "204": {"description": "The stream that the client comes back for was complete."},
            **_errors(),
        },
    }


def _open(name: str, summary: str, *statuses: str) -> dict[str, Any]:
    """An operation that takes no key."""
    answer = {"description": summary, "content": {"application/json": {"schema": {"type": "object"}}}}
    return {
        "operationId": name,
        "summary": summary,
        "security": [],
        "responses": dict.fromkeys(("200", *statuses), answer),
    }


def _schemas() -> dict[str, Any]:
    request, verdict = schemas()["request.json"], schemas()["verdict.json"]
    shared = request["$defs"] | verdict["$defs"]
    asked = request["properties"]
    ours = {name: part for name, part in asked.items() if name not in ELSEWHERE} | {
        "request_id": _ID,
        "batch_id": {"anyOf": [_ID, {"type": "null"}], "default": None},
    }
    uploaded = {name: part for name, part in ours.items() if name != "image_url"}
    found = {
        **shared,
        "Request": {**request, "properties": ours},
        "Upload": {**request, "properties": uploaded, "required": ["prompt"]},
        "Verdict": verdict,
        "Status": Status.model_json_schema(mode="serialization"),
        "Erased": Erased.model_json_schema(mode="serialization"),
        "Submitted": _object(request_id=_ID),
        "Cancelled": _object(request_id=_ID, cancelled={"type": "boolean"}),
        "Page": _object(
            verdicts={"type": "array", "items": _ref("Verdict")},
            cursor={"anyOf": [{"type": "string"}, {"type": "null"}]},
        ),
        "Problem": _PROBLEM,
    }
    shared_too = {name: part for schema in found.values() for name, part in schema.get("$defs", {}).items()}
    return {name: _moved(schema) for name, schema in (shared_too | found).items()}


def _moved(part: Any) -> Any:
    """A schema whose references lead to the components of this document."""
    if isinstance(part, dict):
        return {
            name: inner.replace("#/$defs/", "#/components/schemas/") if name == "$ref" else _moved(inner)
            for name, inner in part.items()
            if name not in ("$defs", "$schema")
        }
    return [_moved(inner) for inner in part] if isinstance(part, list) else part


def _object(**properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "required": [*properties], "properties": properties}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(schema: dict[str, Any], example: Any) -> dict[str, Any]:
    return {"application/json": {"schema": schema, "example": example}}


def _answer(what: str, schema: dict[str, Any], example: Any) -> dict[str, Any]:
    return {"description": what, "content": _json(schema, example)}


def _errors(*statuses: str) -> dict[str, Any]:
    content = {"application/problem+json": {"schema": _ref("Problem"), "example": examples.problem()}}
    return {status: {"description": _ERRORS[status], "content": content} for status in sorted({*_ALWAYS, *statuses})}


def _parameter(
    name: str, place: str, schema: dict[str, Any], *, required: bool = False, example: str | None = None
) -> dict[str, Any]:
    told = {"name": name, "in": place, "schema": schema, "required": required}
    return told if example is None else {**told, "example": example}
