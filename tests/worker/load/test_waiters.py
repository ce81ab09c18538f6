from __future__ import annotations

import re

import pytest

from worker.load import waiters


def test_everybody_who_waits_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    assert waiters.main(["--threads", "3", "--tasks", "5"]) == 0
    printed = capsys.readouterr().out
    rows = re.findall(r"^│ (\w+) +│ (\d) +│ (\d+) +│ (\d+) +│", printed, re.MULTILINE)
    # Threads look once, each by a connection or by another's.
    assert [row[:3] for row in rows] == [("Client", "3", "0"), ("AsyncClient", "5", "0")]
    assert rows[1][3] == "2"


def test_a_waiter_without_a_verdict_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    another = waiters._verdict("another")
    monkeypatch.setattr(waiters, "_verdict", lambda name: another)
    assert waiters.main(["--threads", "2", "--tasks", "2"]) == 1
