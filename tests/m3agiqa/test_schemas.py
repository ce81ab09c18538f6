from __future__ import annotations

import json

import jsonschema
import pytest

from m3agiqa.contract import VERSION, ScoreRequest, Verdict
from m3agiqa.schemas import FOLDER, schemas, text
from tests.pages import blocks
from tests.support_verdicts import verdict


@pytest.mark.parametrize("name", ["request.json", "verdict.json"])
def test_a_shipped_schema_is_that_of_the_contract(name: str) -> None:
    assert (FOLDER / name).read_text(encoding="utf-8") == text(schemas()[name]), "run python -m m3agiqa.schemas"
    jsonschema.Draft202012Validator.check_schema(schemas()[name])
    assert VERSION in schemas()[name]["title"]


def test_what_we_write_is_valid() -> None:
    request = ScoreRequest(image_url="https://x.example/a.png", prompt="a cat", metadata={"title": "of the user's own"})
    jsonschema.validate(json.loads(request.to_json()), schemas()["request.json"])
    jsonschema.validate(json.loads(verdict("r").model_dump_json()), schemas()["verdict.json"])
    [shown] = blocks("json")
    jsonschema.validate(json.loads(shown), schemas()["verdict.json"])


@pytest.mark.parametrize(
    "wrong",
    [{"prompt": "no image"}, {"image_url": "https://x", "prompt": "x", "priority": 4}, {"image_url": 1, "prompt": ""}],
)
def test_what_is_no_request_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, schemas()["request.json"])


def test_a_verdict_of_a_later_version_is_valid() -> None:
    later = json.loads(verdict("r").model_dump_json()) | {"version": "1.9", "added": 1}
    jsonschema.validate(later, schemas()["verdict.json"])
    assert Verdict.model_validate(later).version == "1.9"
