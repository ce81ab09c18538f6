from __future__ import annotations

import sys
from pathlib import Path

import pytest

from producers.cli import main
from tests.producers.test_examples import NEW, OLD, receiving
from tests.support import Web, free_port

Output = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("M3AGIQA_WEBHOOK_SECRETS", NEW)


def tried(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> int:
    monkeypatch.setenv("M3AGIQA_DELIVER_ALLOW_HOSTS", endpoint)
    return main(["webhook", "test", f"http://{endpoint}/verdicts"])


def test_a_receiver_that_verifies_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    with receiving("python", tmp_path / "log") as port:
        assert tried(monkeypatch, f"127.0.0.1:{port}") == 0
    assert "refused one that a stranger signed" in capsys.readouterr().out
    [line] = (tmp_path / "log").read_text().splitlines()
    assert line.startswith("webhook-test-")


def test_a_receiver_that_believes_anybody_is_told(web: Web, monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    assert tried(monkeypatch, web.endpoint) == 1
    assert "took a verdict that a stranger signed" in capsys.readouterr().err
    assert web.count("verdicts") == 2


def test_a_receiver_with_another_secret_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    monkeypatch.setenv("M3AGIQA_WEBHOOK_SECRETS", OLD)
    with receiving("python", tmp_path / "log") as port:
        assert tried(monkeypatch, f"127.0.0.1:{port}") == 1
    told = capsys.readouterr().err
    assert "did not take a verdict of ours" in told
    assert "401" in told


def test_where_nobody_listens_there_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    assert tried(monkeypatch, f"127.0.0.1:{free_port()}") == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_a_private_receiver_that_is_not_allowed_is_not_asked(
    web: Web, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    assert main(["webhook", "test", web.url("verdicts")]) == 1
    assert "M3AGIQA_DELIVER_ALLOW_HOSTS" in capsys.readouterr().err
    assert web.count("verdicts") == 0


def test_a_producer_without_the_workers_packages_is_told_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    monkeypatch.setitem(sys.modules, "worker.delivery.trial", None)
    assert main(["webhook", "test", "https://receiver.example/"]) == 1
    assert "m3agiqa[deliver]" in capsys.readouterr().err
