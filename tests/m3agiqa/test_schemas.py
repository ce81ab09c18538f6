from __future__ import annotations

import json

import jsonschema
import pytest

from m3agiqa.contract import VERSION, ScoreRequest, Verdict
from m3agiqa.schemas import FOLDER, schemas, text
from tests.pages import blocks
from tests.support_verdicts import verdict


def wrong(schema: str, text: str) -> list[str]:
    """What a schema finds wrong with JSON."""
    found = jsonschema.Draft202012Validator(schemas()[schema]).iter_errors(json.loads(text))
    return [error.message for error in found]


@pytest.mark.parametrize("name", ["request.json", "verdict.json"])
def test_a_shipped_schema_is_that_of_the_contract(name: str) -> None:
    assert (FOLDER / name).read_text(encoding="utf-8") == text(schemas()[name]), "run python -m m3agiqa.schemas"
    jsonschema.Draft202012Validator.check_schema(schemas()[name])
    assert VERSION in schemas()[name]["title"]


def test_what_we_write_is_valid() -> None:
    request = ScoreRequest(image_url="https://x.example/a.png", prompt="a cat", metadata={"title": "of the user's own"})
    [shown] = blocks("json")
    assert wrong("request.json", request.to_json()) == []
    assert wrong("verdict.json", verdict("r").model_dump_json()) == []
    assert wrong("verdict.json", shown) == []


@pytest.mark.parametrize(
    "fields",
    [{"prompt": "no image"}, {"image_url": "https://x", "prompt": "x", "priority": 4}, {"image_url": 1, "prompt": ""}],
)
def test_what_is_no_request_is_refused(fields: dict[str, object]) -> None:
    assert wrong("request.json", json.dumps(fields))


def test_a_verdict_of_a_later_version_is_valid() -> None:
    later = json.loads(verdict("r").model_dump_json()) | {"version": "1.9", "added": 1}
    assert wrong("verdict.json", json.dumps(later)) == []
    assert Verdict.model_validate(later).version == "1.9"
