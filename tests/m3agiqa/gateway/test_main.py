"""The gateway as a process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import requests

from m3agiqa.errors import ConfigError
from m3agiqa.gateway import keys
from m3agiqa.gateway.__main__ import main
from m3agiqa.gateway.settings import Settings
from tests.m3agiqa.gateway.conftest import TIMEOUT_S, Caller
from tests.support import ROOT, eventually, free_port

COMMAND = [sys.executable, "-m", "m3agiqa.gateway"]


@contextmanager
def process(folder: Path, **settings: object) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A gateway and its URL."""
    port = free_port()
    ours = {"gateway_keys_file": folder / "keys.json", "gateway_listen": f"127.0.0.1:{port}"}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("M3AGIQA_")}
    environment |= {f"M3AGIQA_{name.upper()}": str(value) for name, value in {**ours, **settings}.items()}
    with (folder / "log").open("wb") as log:
        running = subprocess.Popen(COMMAND, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield running, f"http://127.0.0.1:{port}"
    finally:
        running.kill()
        running.wait(TIMEOUT_S)


def is_up(url: str) -> bool:
    with suppress(requests.ConnectionError):
        return requests.get(f"{url}/readyz", timeout=TIMEOUT_S).status_code == 200
    return False


@pytest.mark.parametrize("processes", [1, 2])
def test_it_serves_until_it_is_asked_to_stop(processes: int, redis_url: str, tmp_path: Path) -> None:
    key = keys.new(tmp_path / "keys.json", "acme")
    with (
        process(tmp_path, redis_url=redis_url, gateway_processes=processes) as (running, url),
        requests.Session() as session,
    ):
        eventually(lambda: is_up(url), "the gateway answers")
        acme = Caller(url, key, session)
        assert acme.submit(prompt="canary").status_code == 202
        session.close()
        # when it is asked to stop, it does
        running.send_signal(signal.SIGTERM)
        assert running.wait(TIMEOUT_S) == 0
    log = (tmp_path / "log").read_text()
    assert "POST submit for acme: 202" in log
    assert "Traceback" not in log
    assert "canary" not in log
    assert key not in log


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"gateway_keys_file": "/none/such"}, "error: cannot read the keys in /none/such: No such file or directory\n"),
        ({"redis_url": "http://host"}, "error: M3AGIQA_REDIS_URL: "),
        ({"gateway_listen": "nowhere"}, "error: M3AGIQA_GATEWAY_LISTEN: "),
        ({"gateway_burts": "1"}, "error: no such setting: M3AGIQA_GATEWAY_BURTS\n"),
        ({"gateway_listen": "192.0.2.1:1"}, "error: the gateway did not start"),
    ],
)
def test_what_is_wrong_is_said_before_it_serves(
    settings: dict[str, str], told: str, redis_url: str, tmp_path: Path
) -> None:
    keys.new(tmp_path / "keys.json", "acme")
    with process(tmp_path, **{"redis_url": redis_url, **settings}) as (running, _):
        assert running.wait(TIMEOUT_S) == 1
    log = (tmp_path / "log").read_text()
    assert told in log
    assert "Traceback" not in log


def test_without_a_file_of_keys_nothing_is_served(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("M3AGIQA_GATEWAY_KEYS_FILE", raising=False)
    assert main([]) == 1
    assert "M3AGIQA_GATEWAY_KEYS_FILE: Field required" in capsys.readouterr().err


@pytest.mark.parametrize(("listen", "host", "port"), [("[::1]:80", "::1", 80), ("0.0.0.0:8080", "0.0.0.0", 8080)])
def test_where_it_listens(listen: str, host: str, port: int) -> None:
    known = Settings(keys_file=Path("keys.json"), listen=listen)
    assert (known.host, known.port) == (host, port)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("listen", "host"), ("processes", "0"), ("max_image_bytes", "0"), ("requests_per_s", "nan"), ("burst", "0")),
        *(("max_wait_s", "-1"), ("heartbeat_s", "0"), ("max_connections", "1"), ("max_uploads", "many")),
    ],
)
def test_wrong_settings(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("M3AGIQA_GATEWAY_KEYS_FILE", "keys.json")
    monkeypatch.setenv(f"M3AGIQA_GATEWAY_{name.upper()}", value)
    with pytest.raises(ConfigError, match=f"M3AGIQA_GATEWAY_{name.upper()}: "):
        Settings.from_environment()


def test_a_worker_passes_over_settings_of_the_gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    from worker.settings import Settings as WorkerSettings

    monkeypatch.setenv("M3AGIQA_GATEWAY_KEYS_FILE", "keys.json")
    WorkerSettings.from_environment()
