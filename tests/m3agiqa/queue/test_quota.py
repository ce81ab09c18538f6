"""A tenant's limits: workers admit no more, and answer what is beyond with a failure that may pass."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from m3agiqa.client import Client, Verdict
from m3agiqa.contract import Decision
from m3agiqa.queue import inbox, keys
from m3agiqa.queue.ledger import Ledger
from m3agiqa.queue.usage import Usage
from m3agiqa.tenants import Tenants
from tests.m3agiqa.queue.support import begin, letters, request
from tests.support_verdicts import verdict


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The operator's folder of tenants."""
    monkeypatch.setenv("M3AGIQA_CONFIG_DIR", str(tmp_path))
    (tmp_path / "tenants").mkdir()
    return tmp_path / "tenants"


@pytest.fixture
def limited(redis_url: str, folder: Path) -> Iterator[Ledger]:
    """A worker that serves listed tenants alone, and has what it does not score accepted by the policy `lenient`."""

    def on_failure(policy: str | None) -> Decision:
        return Decision.ACCEPT if policy == "lenient" else Decision.REVIEW

    ledger = Ledger(redis_url, lease_s=1000, tenants=Tenants(listed=True), on_failure=on_failure)
    yield ledger
    ledger.close()


def write(folder: Path, *lines: str, name: str = "acme") -> None:
    (folder / f"{name}.yaml").write_text("\n".join([f"name: {name}", *lines]), encoding="utf-8")


def submit(ledger: Ledger, redis: Redis, *names: str, tenant: str | None = "acme", **fields: object) -> None:
    inbox.push(redis, [request(name).model_copy(update={"tenant": tenant, **fields}) for name in names])
    while ledger.admit(6):
        pass


def codes(client: Client) -> dict[str, str]:
    return {told.name: told.error.code if told.error else "" for told in client.results()}


def used(client: Client) -> Usage:
    [one] = client.for_tenant("acme").usage()
    return one


def test_no_more_wait_than_may(limited: Ledger, folder: Path, redis: Redis, client: Client) -> None:
    # given a tenant of which twenty may wait: more than lie on the list
    write(folder, "max_waiting: 20")
    # when it submits more
    submit(limited, redis, *map(str, range(23)))
    # then those beyond are answered, and nothing is a dead letter, as nothing is wrong with them
    assert codes(client) == dict.fromkeys(("acme/20", "acme/21", "acme/22"), "quota_exceeded")
    refused = client.result("acme/20", 0)
    assert refused.error is not None
    assert (refused.status, refused.decision, refused.error.retryable) == ("failed", Decision.REVIEW, True)
    assert letters(redis) == []
    assert client.history("acme/20")[0].endswith("refused: 20 of its tenant may wait")
    assert client.for_tenant("acme").waiting() == 20
    # and once one is begun, another may come
    begin(limited, "acme/0")
    submit(limited, redis, "23", "24")
    assert codes(client).keys() == {"acme/20", "acme/21", "acme/22", "acme/24"}


def test_no_more_come_a_day_than_may(limited: Ledger, folder: Path, redis: Redis, client: Client) -> None:
    write(folder, "images_per_day: 2")
    submit(limited, redis, "a", "b", "a", "c")
    # a repetition is no other image, and one that was scored counts on
    begin(limited, "acme/a").publish(verdict("a").model_copy(update={"tenant": "acme"}))
    submit(limited, redis, "d")
    assert codes(client) == {"acme/a": "", "acme/c": "quota_exceeded", "acme/d": "quota_exceeded"}
    assert used(client).admitted == 2
    # when its file allows more, a request that was refused may be tried anew
    write(folder, "images_per_day: 3")
    submit(limited, redis, "c", retry_failed=True)
    assert begin(limited, "acme/c").publish(verdict("c"))
    # and one that is refused again has a new verdict
    before = client.result("acme/d", 0)
    submit(limited, redis, "d", retry_failed=True)
    after = client.result("acme/d", 0)
    assert after.error is not None
    assert (after.error.code, after.scored_at > before.scored_at) == ("quota_exceeded", True)


def test_refusals_go_to_their_receivers(limited: Ledger, folder: Path, redis: Redis) -> None:
    write(folder, "images_per_day: 0")
    submit(limited, redis, "a", callback_url="https://host/hook")
    assert redis.lrange(keys.DELIVER_QUEUE, 0, -1) == ["acme/a:callback"]
    told = Verdict.model_validate_json(begin(limited, "acme/a:callback").verdict)
    assert (told.tenant, told.status) == ("acme", "failed")


@pytest.mark.parametrize(
    ("asked", "of_tenant", "decision"),
    [(None, None, Decision.REVIEW), (None, "lenient", Decision.ACCEPT), ("strict", "lenient", Decision.REVIEW)],
)
def test_the_policy_decides_about_what_is_beyond(
    asked: str | None,
    of_tenant: str | None,
    decision: Decision,
    limited: Ledger,
    folder: Path,
    redis: Redis,
    client: Client,
) -> None:
    write(folder, "images_per_day: 0", f"policy: {of_tenant}" if of_tenant else "")
    submit(limited, redis, "a", policy=asked)
    assert client.result("acme/a", 0).decision == decision


def test_neighbours_of_a_broken_file_notice_nothing(
    limited: Ledger, folder: Path, redis: Redis, client: Client
) -> None:
    write(folder, "max_waiting: many, please")
    write(folder, name="umbra")
    submit(limited, redis, "a")
    submit(limited, redis, "b", tenant="umbra")
    submit(limited, redis, "c", tenant=None)
    submit(limited, redis, "d", tenant="nobody")
    assert codes(client) == {"acme/a": "tenant_misconfigured", "nobody/d": "tenant_unknown"}
    assert begin(limited, "umbra/b").publish(verdict("b"))
    assert begin(limited, "c").publish(verdict("c"))
    counts = client.overview().counts
    assert counts["requests_refused|tenant_unknown"] == counts["requests_refused|tenant_misconfigured"] == 1


def test_keys_of_another_kind_stop_nobody(limited: Ledger, folder: Path, redis: Redis, client: Client) -> None:
    write(folder, "images_per_day: 1", "max_waiting: 1")
    redis.set(keys.usage(int(redis.time()[0]) // 86_400), "x")
    redis.set(keys.front(6, "acme"), "x")
    submit(limited, redis, "a")
    submit(limited, redis, "b", tenant=None)
    assert begin(limited, "acme/a").publish(verdict("a"))
    assert begin(limited, "b").publish(verdict("b"))
    assert codes(client) == {"a": "", "b": ""}
