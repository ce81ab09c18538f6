"""Who may speak to the gateway, and for whom."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from m3agiqa.errors import ConfigError
from m3agiqa.gateway import keys
from m3agiqa.gateway.__main__ import main
from m3agiqa.gateway.keys import Keyring
from tests.m3agiqa.gateway.conftest import Caller, Gateway
from tests.m3agiqa.gateway.test_app import problem

Score = Callable[..., None]
DAY = timedelta(days=1)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def test_a_key_stands_for_its_tenant_and_is_not_in_the_file(file: Path) -> None:
    first, second, other = (keys.new(file, tenant) for tenant in ("acme", "acme", "umbra"))
    ring = Keyring(file)
    assert [ring.tenant_of(key) for key in (first, second, other)] == ["acme", "acme", "umbra"]
    assert len(first) > 40
    assert not any(key in file.read_text() for key in (first, second, other))
    for wrong in ("", first[:-1], first + "x", keys.digest(first), first.upper(), "\udc80"):
        assert ring.tenant_of(wrong) is None


def test_keys_rotate(file: Path) -> None:
    # given a key that has ended, and the next one
    old = keys.new(file, "acme", datetime.now(UTC) - DAY)
    new = keys.new(file, "acme", datetime.now(UTC) + DAY)
    ring = Keyring(file)
    assert [ring.tenant_of(key) for key in (old, new)] == [None, "acme"]
    # when the file has another key and not this one, it is known without a restart
    file.unlink()
    newest = keys.new(file, "acme")
    assert [ring.tenant_of(key) for key in (new, newest)] == [None, "acme"]


@pytest.mark.parametrize("content", [None, "", "{", '{"keys": [{"tenant": "a/b", "sha256": ""}]}', '{"key": []}'])
def test_a_file_that_becomes_none_changes_nothing(
    content: str | None, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key = keys.new(file, "acme")
    ring = Keyring(file)
    file.unlink() if content is None else file.write_text(content)
    assert ring.tenant_of(key) == "acme"
    assert ring.tenant_of(key) == "acme"
    assert len(caplog.messages) == 1, "said once"
    with pytest.raises(ConfigError, match="keys"):
        Keyring(file)


def test_a_command_makes_a_key(file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("M3AGIQA_GATEWAY_KEYS_FILE", str(file))
    assert main(["keys", "new", "acme", "--expires", "2100-01-31"]) == 0
    key = capsys.readouterr().out.strip()
    assert Keyring(file).tenant_of(key) == "acme"
    [kept] = json.loads(file.read_text())["keys"]
    assert kept == {"tenant": "acme", "sha256": keys.digest(key), "expires_at": "2100-01-31T00:00:00Z"}
    assert not stat.S_IMODE(file.stat().st_mode) & stat.S_IWOTH
    assert main(["keys", "new", "a/b"]) == 1
    assert "tenant: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "Bearer m3g_x", "Basic {}", "{}", "Bearer {} {}", "Token {}"]
)
def test_who_has_no_key_is_told_nothing_else(header: str, gateway: Gateway, acme: Caller) -> None:
    nobody = gateway.caller(None)
    for method, path in (("GET", "images"), ("POST", "images"), ("GET", "images/cat"), ("GET", "events")):
        answer = nobody.ask(method, f"/v1/{path}", headers={"Authorization": header.replace("{}", str(acme.key))})
        assert problem(answer) == (401, "unauthorized")
        assert answer.headers["www-authenticate"] == "Bearer"
    assert acme.ask("GET", "/v1/images").status_code == 200


@pytest.mark.parametrize(
    "name", ["cat", "umbra/cat", "umbra%2Fcat", "..%2Fumbra%2Fcat", "../umbra/cat", "*", "umbra%2F*"]
)
def test_no_key_sees_another_tenant(name: str, acme: Caller, umbra: Caller, score: Score) -> None:
    # given a request of one tenant, with a verdict
    umbra.submit(request_id="cat", batch_id="b")
    score("umbra/cat")
    # then another sees, waits for, takes back and erases nothing of it
    for method, query in (("GET", ""), ("GET", "?wait=0.1"), ("DELETE", "")):
        assert problem(acme.ask(method, f"/v1/images/{name}{query}")) == (404, "not_found")
    acme.ask("DELETE", f"/v1/images/{name}?erase=true")
    assert acme.ask("GET", "/v1/images?batch_id=b").json()["verdicts"] == []
    assert umbra.ask("GET", "/v1/images/cat").json()["tenant"] == "umbra"


def test_nobody_submits_for_another_tenant(acme: Caller) -> None:
    assert problem(acme.submit(tenant="umbra")) == (422, "request_invalid")
