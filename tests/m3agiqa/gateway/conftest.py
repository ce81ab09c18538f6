from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests
import uvicorn

from m3agiqa.client import Client
from m3agiqa.gateway import app, keys, server
from m3agiqa.gateway.settings import Settings
from m3agiqa.queue.ledger import Ledger
from tests.support import eventually, free_port
from tests.support_verdicts import verdict

TIMEOUT_S = 60


@dataclass
class Caller:
    """One who speaks to a gateway, with a key or without one."""

    url: str
    key: str | None
    session: requests.Session = field(default_factory=requests.Session)

    def ask(self, method: str, path: str, **options: Any) -> requests.Response:
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        headers |= options.pop("headers", {})
        return self.session.request(method, self.url + path, headers=headers, timeout=TIMEOUT_S, **options)

    def submit(self, **fields: Any) -> requests.Response:
        return self.ask("POST", "/v1/images", json={"image_url": "https://host/a.png", "prompt": "", **fields})


@dataclass
class Gateway:
    url: str
    keys_file: Path
    callers: list[Caller] = field(default_factory=list)

    def caller(self, tenant: str | None) -> Caller:
        found = Caller(self.url, keys.new(self.keys_file, tenant) if tenant else None)
        self.callers.append(found)
        return found


@contextmanager
def serving(redis_url: str, keys_file: Path, **settings: Any) -> Iterator[str]:
    """The URL of a real gateway in a thread."""
    port = free_port()
    known = Settings(keys_file=keys_file, listen=f"127.0.0.1:{port}", **settings)
    config = uvicorn.Config(app.make(known, redis_url), log_config=None, **server.options(known))
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run)
    thread.start()
    try:
        eventually(lambda: running.started, "the gateway listens")
        yield f"http://127.0.0.1:{port}"
    finally:
        running.should_exit = True
        thread.join(TIMEOUT_S)


@pytest.fixture
def start(redis_url: str, tmp_path: Path) -> Iterator[Callable[..., Gateway]]:
    """Starts a gateway with settings."""
    with ExitStack() as stack:

        def begin(**settings: Any) -> Gateway:
            keys_file = tmp_path / "keys.json"
            keys.new(keys_file, "first")
            url = stack.enter_context(serving(redis_url, keys_file, **settings))
            gateway = Gateway(url, keys_file)
            stack.callback(lambda: [caller.session.close() for caller in gateway.callers])
            return gateway

        yield begin


@pytest.fixture
def gateway(start: Callable[..., Gateway]) -> Gateway:
    return start(heartbeat_s=0.1)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys are looked at each time, so that those that a test makes are known."""
    monkeypatch.setattr(keys, "_LOOK_AGAIN_S", 0.0)


@pytest.fixture
def acme(gateway: Gateway) -> Caller:
    return gateway.caller("acme")


@pytest.fixture
def umbra(gateway: Gateway) -> Caller:
    return gateway.caller("umbra")


@pytest.fixture
def ledger(redis_url: str) -> Iterator[Ledger]:
    with closing(Ledger(redis_url)) as ledger:
        yield ledger


@pytest.fixture
def score(ledger: Ledger) -> Callable[..., None]:
    """Publishes verdicts on requests, as workers do."""

    def publish(*names: str) -> None:
        ledger.admit(3)
        for name in names:
            with ledger.claim(name) as claim:
                asked = claim.request
                told = {"tenant": asked.tenant, "batch_id": asked.batch_id, "metadata": asked.metadata}
                assert claim.publish(verdict(asked.request_id).model_copy(update=told))

    return publish


@pytest.fixture
def queue(redis_url: str) -> Iterator[Client]:
    with Client(redis_url) as client:
        yield client
