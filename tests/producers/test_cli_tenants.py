"""`m3agiqa-submit --tenant`, `usage`, and a tenant that is erased as a whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TypeAlias

import pytest
from redis import Redis

from m3agiqa.client import Client
from m3agiqa.contract import Decision
from m3agiqa.queue.ledger import Ledger
from producers.cli import main
from tests.m3agiqa.queue.support import traces
from tests.support_verdicts import verdict

Output: TypeAlias = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _redis(monkeypatch: pytest.MonkeyPatch, redis_url: str) -> None:
    monkeypatch.setenv("M3AGIQA_REDIS_URL", redis_url)


@pytest.fixture
def ledger(redis_url: str) -> Iterator[Ledger]:
    """What a worker has of Redis."""
    ledger = Ledger(redis_url)
    yield ledger
    ledger.close()


def score(ledger: Ledger, name: str) -> None:
    with ledger.claim(name) as claim:
        told = verdict(claim.request.request_id)
        assert claim.publish(told.model_copy(update={"tenant": claim.request.tenant, "decision": Decision.ACCEPT}))


def test_a_tenant_submits_and_finds_its_own(ledger: Ledger, client: Client, capsys: Output) -> None:
    # given one id, submitted for two tenants
    for tenant in ("acme", "umbra"):
        assert main(["--tenant", tenant, "one", "https://host/a.png", "--prompt", "", "--request-id", "cat"]) == 0
    ledger.admit(3)
    score(ledger, "acme/cat")
    capsys.readouterr()
    # then each command means the tenant's own
    assert main(["--tenant", "acme", "state", "cat"]) == 0
    assert main(["--tenant", "umbra", "cancel", "cat"]) == 0
    assert main(["--tenant", "acme", "export"]) == 0
    state, cancelled, exported = capsys.readouterr().out.splitlines()
    assert (state, cancelled, json.loads(exported)["tenant"]) == ("settled", "cat", "acme")


def test_a_tenant_that_is_none_is_wrong_usage(capsys: Output) -> None:
    assert main(["--tenant", "a/b", "purge"]) == 2
    assert "--tenant: a/b is none" in capsys.readouterr().err


def test_usage_is_shown_and_printed(ledger: Ledger, client: Client, capsys: Output) -> None:
    for tenant in ("acme", "umbra"):
        client.for_tenant(tenant).submit(image_url="https://host/a.png", prompt="", request_id="cat")
    ledger.admit(3)
    score(ledger, "acme/cat")
    today = datetime.now(UTC).date().isoformat()
    # when it is asked for as JSON, of all and of one, in either place of the option
    assert main(["usage", "--json"]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(one["tenant"], one["admitted"], one["accept"]) for one in told] == [("acme", 1, 1), ("umbra", 1, 0)]
    for options in (["--tenant", "umbra", "usage", "--json"], ["usage", "--json", "--tenant", "umbra"]):
        assert main([*options, "--from", today, "--to", today]) == 0
        assert json.loads(capsys.readouterr().out)["tenant"] == "umbra"
    # and as a table
    assert main(["usage", "--from", "2020-01-01"]) == 0
    assert {"acme", "umbra", today} <= set(capsys.readouterr().out.split())
    # and nobody asks for days that are none
    assert main(["usage", "--from", today, "--to", "2020-01-01"]) == 2
    with pytest.raises(SystemExit, match="2"):
        main(["usage", "--from", "yesterday"])


def test_status_names_tenants_that_wait_in_lanes(ledger: Ledger, client: Client, capsys: Output) -> None:
    client.for_tenant("acme").submit_many([{"image_url": "https://host/a.png", "prompt": ""}] * 20)
    ledger.admit(3)
    main(["status", "--json"])
    assert json.loads(capsys.readouterr().out)["laned"] == {"acme": 4}
    main(["status"])
    assert "1 tenants wait in lanes" in capsys.readouterr().out


def test_a_tenant_is_erased_only_where_nothing_else_is_meant(
    ledger: Ledger, client: Client, redis: Redis, capsys: Output
) -> None:
    for tenant in ("acme", "umbra"):
        client.for_tenant(tenant).submit_many(
            [{"image_url": "https://host/a.png", "prompt": "", "request_id": name} for name in ("a", "b")]
        )
    # when ids were left out by mistake, or both are named, nothing is erased
    for wrong in (["--tenant", "acme", "erase"], ["erase", "--tenant", "acme", "a"], ["erase"]):
        assert main(wrong) == 2
    ledger.admit(3)
    assert client.for_tenant("acme").waiting() == 2
    # when one id is named, that goes; when the tenant is, all of it
    assert main(["--tenant", "acme", "erase", "a"]) == 0
    assert client.for_tenant("acme").waiting() == 1
    capsys.readouterr()
    assert main(["erase", "--tenant", "acme"]) == 0
    erased = json.loads(capsys.readouterr().out)
    assert (erased["tenant"], erased["requests"], erased["usage_days"]) == ("acme", 1, 1)
    assert traces(redis, "acme") == []
    assert client.for_tenant("umbra").waiting() == 2
