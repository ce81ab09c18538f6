"""The gateway's description of itself is sound, and the gateway does what it says."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from m3agiqa.gateway import openapi, problems
from m3agiqa.gateway.settings import Settings
from tests.m3agiqa.gateway.conftest import Caller, Gateway

DOCUMENT = openapi.document(Settings(keys_file=Path("keys.json")))
METHODS = ("get", "post", "delete")
#: The schema says less than the contract (what a URL may hold, for one), so what fits it may be refused. And a request
#: that was taken back has a verdict that says so, so it is still there.
UNFIT = "positive_data_acceptance,use_after_free"
COMMAND = [sys.executable, "-m", "schemathesis.cli", "run", "--no-color", f"--exclude-checks={UNFIT}"]


def operations() -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (path, method, known)
        for path, item in DOCUMENT["paths"].items()
        for method, known in item.items()
        if method in METHODS
    ]


def test_the_description_follows_openapi() -> None:
    validate(DOCUMENT)


def test_the_description_is_served(acme: Caller) -> None:
    assert acme.ask("GET", "/v1/openapi.json").json() == DOCUMENT


def test_every_example_follows_its_schema() -> None:
    resource = Resource.from_contents(DOCUMENT, default_specification=DRAFT202012)
    registry: Registry[Any] = Registry().with_resource("urn:gateway", resource)
    shown = list(examples(DOCUMENT["paths"]))
    assert len(shown) > 20
    for schema, example in shown:
        absolute = {"$ref": f"urn:gateway{schema['$ref']}"} if "$ref" in schema else schema
        if "anyOf" in schema:
            absolute = {"anyOf": [{"$ref": f"urn:gateway{one['$ref']}"} for one in schema["anyOf"]]}
        Draft202012Validator(absolute, registry=registry).validate(example)


def examples(part: Any) -> Any:
    """Every schema with an example of it."""
    if isinstance(part, dict):
        if "schema" in part and "contentMediaType" not in str(part["schema"]):
            if "example" in part:
                yield part["schema"], part["example"]
            for one in part.get("examples", {}).values():
                yield part["schema"], one["value"]
        part = list(part.values())
    if isinstance(part, list):
        for inner in part:
            yield from examples(inner)


def test_every_status_of_a_failure_is_described() -> None:
    told = {status for _, _, known in operations() for status in known["responses"]}
    assert {str(status) for status in problems.STATUSES.values()} <= told


@pytest.mark.slow
def test_the_gateway_does_what_its_description_says(start: Callable[..., Gateway], tmp_path: Path) -> None:
    """Bounded, and the same each time; docs/gateway.md tells of a longer run."""
    # given a gateway that limits no rate, and whose streams end soon
    acme = start(requests_per_s=1e6, burst=10**6, max_stream_s=0.05, max_wait_s=0.1).caller("acme")
    command = [*COMMAND, "--max-examples=5", "--seed=1", "--generation-deterministic", f"{acme.url}/v1/openapi.json"]
    # when it is asked everything, well and badly
    ended = subprocess.run(
        [*command, "--header", f"Authorization: Bearer {acme.key}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    # then every answer is as described
    assert ended.returncode == 0, ended.stdout[-8000:] + ended.stderr
    assert "No issues found" in ended.stdout
