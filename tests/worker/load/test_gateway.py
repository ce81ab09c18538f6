from __future__ import annotations

import re

import pytest

from worker.load import gateway


@pytest.mark.slow
def test_every_request_is_answered(capsys: pytest.CaptureFixture[str]) -> None:
    assert gateway.main(["--requests", "8", "--connections", "2", "--processes", "2"]) == 0
    rows = re.findall(r"^│ ([A-Z, a-z]+?) +│ (\d+) +│ (\d+) +│", capsys.readouterr().out, re.MULTILINE)
    assert rows == [
        ("POST", "8", "0"),
        ("GET, no verdict yet", "2", "0"),
        ("GET, verdict", "2", "0"),
        ("POST, worker busy", "8", "0"),
        ("GET, until the verdict", "8", "0"),
    ]
