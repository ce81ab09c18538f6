"""Quotas of tenants hold by way of the gateway, which says so at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from redis import Redis

from m3agiqa.client import Client
from m3agiqa.queue import keys
from tests.m3agiqa.gateway.conftest import Gateway
from tests.m3agiqa.gateway.test_app import problem


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The operator's folder of tenants, with one for acme, who may have two requests waiting."""
    (tmp_path / "tenants").mkdir()
    monkeypatch.setenv("M3AGIQA_CONFIG_DIR", str(tmp_path))
    (tmp_path / "tenants" / "acme.yaml").write_text("name: acme\nmax_waiting: 2\n")
    return tmp_path / "tenants"


def test_who_has_all_that_may_wait_is_told(folder: Path, start: Callable[..., Gateway]) -> None:
    gateway = start()
    acme, umbra = gateway.caller("acme"), gateway.caller("umbra")
    for number in range(2):
        assert acme.submit(request_id=f"r{number}").status_code == 202
        assert acme.ask("GET", f"/v1/images/r{number}").status_code == 202
    refused = acme.submit()
    assert problem(refused) == (429, "quota_exceeded")
    assert refused.headers["retry-after"] == "60"
    assert umbra.submit().status_code == 202


def test_who_has_all_of_a_day_is_told(folder: Path, start: Callable[..., Gateway]) -> None:
    (folder / "acme.yaml").write_text("name: acme\nimages_per_day: 1\n")
    acme = start().caller("acme")
    acme.submit(request_id="cat")
    assert acme.ask("DELETE", "/v1/images/cat").json()["cancelled"]
    assert problem(acme.submit()) == (429, "quota_exceeded")


@pytest.mark.parametrize("way", ["GET", "DELETE", "erase", "key"])
def test_no_way_has_more_taken_in_than_the_quota(
    way: str, folder: Path, start: Callable[..., Gateway], queue: Client, redis: Redis
) -> None:
    # given more requests in the inbox than the tenant may have waiting, and no worker
    acme = start().caller("acme")
    ids = [f"r{number}" for number in range(5)]
    queue.for_tenant("acme").submit_many({"image_url": "https://h/a", "prompt": "", "request_id": name} for name in ids)
    # when the gateway takes in what lies there, for whatever reason
    if way == "key":
        body = {"image_url": "https://h/a", "prompt": ""}
        acme.ask("POST", "/v1/images", json=body, headers={"Idempotency-Key": "k"})
    else:
        acme.ask("GET" if way == "GET" else "DELETE", "/v1/images/none" + ("?erase=true" if way == "erase" else ""))
    # then those beyond have a verdict that says so
    told = [queue.for_tenant("acme").result(name, 0) for name in ids if redis.exists(keys.result(f"acme/{name}"))]
    assert [one.error.code for one in told if one.error] == ["quota_exceeded"] * 3


def test_a_tenant_that_is_not_listed_is_refused(folder: Path, start: Callable[..., Gateway]) -> None:
    gateway = start(tenants="listed")
    assert problem(gateway.caller("umbra").submit()) == (403, "tenant_unknown")
    assert gateway.caller("acme").submit().status_code == 202
