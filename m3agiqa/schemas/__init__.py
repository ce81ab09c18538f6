"""JSON Schemas (draft 2020-12) of what crosses the wire, for other languages: `request.json`, `verdict.json`.

They are made from `m3agiqa.contract` by `python -m m3agiqa.schemas`. A schema says less than the contract: what a URL
may hold, how deep metadata are, which times make sense.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from m3agiqa.contract import VERSION, ScoreRequest, Verdict

FOLDER = Path(__file__).resolve().parent


def schemas() -> dict[str, dict[str, Any]]:
    """Every schema by the name of its file."""
    request = ScoreRequest.model_json_schema()
    verdict = Verdict.model_json_schema(mode="serialization")
    return {
        "request.json": _titled(request, "a request to score an image"),
        "verdict.json": _titled(verdict, "a verdict about an image"),
    }


def _titled(schema: dict[str, Any], what: str) -> dict[str, Any]:
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": f"m3agiqa {VERSION}: {what}"}
    # Titles that pydantic makes of fields' names say nothing.
    return head | {name: _bare(part) for name, part in schema.items() if name != "title"}


def _bare(part: Any) -> Any:
    if isinstance(part, dict):
        return {name: _bare(inner) for name, inner in part.items() if name != "title" or not isinstance(inner, str)}
    return [_bare(inner) for inner in part] if isinstance(part, list) else part


def text(schema: dict[str, Any]) -> str:
    """A schema as it stands in its file."""
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
