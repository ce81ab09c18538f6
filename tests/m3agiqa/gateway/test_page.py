"""docs/gateway.md shows commands that work, and codes that there are."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

from m3agiqa.errors import tree
from m3agiqa.gateway import problems
from tests.m3agiqa.gateway.conftest import Caller
from tests.pages import DOCS, read, table
from tests.support import png

PAGE = DOCS / "gateway.md"


def commands() -> list[str]:
    """Every curl of the page, in order."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", read(PAGE), re.DOTALL | re.MULTILINE)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("curl ")]


def test_every_curl_works(acme: Caller, tmp_path: Path, score: Callable[..., None]) -> None:
    (tmp_path / "cat.png").write_bytes(png())
    environment = {**os.environ, "GATEWAY": acme.url, "KEY": str(acme.key)}
    told = []
    for command in commands():
        ended = subprocess.run(
            ["bash", "-c", command],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        told.append(ended.stdout)
    submitted, uploaded, waited, page, cancelled, keyed, events = told
    assert json.loads(submitted) == {"request_id": "cat-1"}
    assert json.loads(uploaded).keys() == {"request_id"}
    assert json.loads(waited)["state"] == "submitted"
    assert json.loads(page) == {"verdicts": [], "cursor": None}
    assert json.loads(cancelled) == {"request_id": "cat-1", "cancelled": True}
    assert json.loads(keyed)["request_id"].startswith("key-")
    assert [line for line in events.splitlines() if line[:3] in ("eve", "id:")] == [
        *("event: verdict", "id: cat-1"),
        *("event: end", "id: end"),
    ]


def test_the_codes_of_http_are_in_its_table_and_are_no_failures() -> None:
    shown = {code.strip("`"): int(status) for code, status, _ in table("| HTTP code | Status | Means |")}
    raised = "".join(read(file) for file in sorted(Path(problems.__file__).parent.glob("*.py")))
    used = {(code, int(status)) for status, code in re.findall(r'Problem\((\d+), "(\w+)"', raised)}
    used |= {(code, status) for status, code in problems.CODES.items()}
    failures = {failure.code for failure in tree()}
    assert set(shown.items()) == {(code, status) for code, status in used if code not in failures}
