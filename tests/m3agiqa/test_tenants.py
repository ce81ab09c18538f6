"""Tenants' files: what they may say, and that one that is wrong costs no other tenant anything."""

from __future__ import annotations

import base64
import logging
from pathlib import Path

import pytest

from m3agiqa.errors import ConfigError, TenantMisconfigured
from m3agiqa.tenants import Tenant, Tenants, Terms

SECRET = "whsec_" + base64.b64encode(b"s" * 24).decode()
OTHER = "whsec_" + base64.b64encode(b"o" * 32).decode()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The operator's folder of tenants."""
    monkeypatch.setenv("M3AGIQA_CONFIG_DIR", str(tmp_path))
    (tmp_path / "tenants").mkdir()
    return tmp_path / "tenants"


def write(folder: Path, *lines: str, name: str = "acme") -> Path:
    file = folder / f"{name}.yaml"
    file.write_text("\n".join([f"name: {name}", *lines]), encoding="utf-8")
    return file


def test_a_file_says_what_a_tenant_may_do(folder: Path) -> None:
    write(
        folder,
        "policy: strict",
        f"webhook_secrets: [{SECRET}]",
        "callback_hosts: [hooks.acme.example, .acme.test]",
        "max_waiting: 5",
        "images_per_day: 70",
    )
    acme = Tenants().find("acme")
    assert acme is not None
    assert (acme.policy, acme.max_waiting, acme.images_per_day, acme.secrets()) == ("strict", 5, 70, [SECRET])
    assert [acme.may_call(host) for host in ("hooks.acme.example", "a.acme.test", "acme.test", "evil.example")] == [
        True,
        True,
        False,
        False,
    ]
    # and nobody reads a secret from what is logged
    assert SECRET not in f"{acme!r} {acme.model_dump_json()}"


def test_secrets_may_stand_in_a_file_of_their_own_which_may_change(folder: Path) -> None:
    write(folder, f"webhook_secrets: [{SECRET}]", "webhook_secrets_file: secrets/acme")
    acme = Tenants().find("acme")
    assert acme is not None
    # while it is not there, nothing signs in its stead
    with pytest.raises(TenantMisconfigured):
        acme.secrets()
    (folder / "secrets").mkdir()
    (folder / "secrets" / "acme").write_text(f"{OTHER}\n", encoding="utf-8")
    assert acme.secrets() == [SECRET, OTHER]


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("max_wating: 5", "max_wating"),
        ("max_waiting: -1", "max_waiting"),
        ("policy: ../default", "policy"),
        ("webhook_secrets: [hunter2]", "whsec_ and 24 to 64 bytes"),
        ("callback_hosts: ['https://host/']", "callback_hosts"),
    ],
)
def test_a_wrong_field_is_named_and_no_secret_shown(line: str, wrong: str, folder: Path) -> None:
    file = write(folder, line)
    with pytest.raises(ConfigError, match=wrong) as raised:
        Tenant.read(file)
    assert "hunter2" not in str(raised.value)


def test_a_copy_that_still_has_the_others_name_is_refused(folder: Path) -> None:
    file = write(folder).rename(folder / "umbra.yaml")
    with pytest.raises(ConfigError, match="name: must be umbra"):
        Tenant.read(file)


def test_a_tenant_follows_its_file(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    # given a file that is read
    tenants, file = Tenants(), write(folder, "max_waiting: 5")
    assert tenants.terms("acme").max_waiting == 5
    # when it becomes wrong, its last content stays in force
    write(folder, "max_waiting: many, please")
    with caplog.at_level(logging.ERROR):
        assert tenants.terms("acme").max_waiting == 5
    assert [record.message.endswith("its last content stays in force") for record in caplog.records] == [True]
    # when it is mended, that holds, and without it nothing does
    write(folder, "max_waiting: 12345")
    assert tenants.terms("acme").max_waiting == 12345
    file.unlink()
    assert tenants.terms("acme") == Terms()


def test_a_file_that_always_was_wrong_admits_nothing_of_its_tenant_alone(folder: Path) -> None:
    write(folder, "max_waiting: many, please")
    write(folder, "max_waiting: 3", name="umbra")
    tenants = Tenants()
    terms = tenants.terms("acme")
    assert terms.failure is not None
    assert (terms.max_waiting, terms.failure.code, terms.failure.retryable) == (0, "tenant_misconfigured", True)
    assert tenants.terms("umbra").max_waiting == 3
    # and its callbacks wait for its own secrets
    with pytest.raises(TenantMisconfigured):
        tenants.find("acme")


def test_a_tenant_without_a_file(folder: Path) -> None:
    write(folder)
    assert Tenants().terms("umbra") == Terms()
    terms = Tenants(listed=True).terms("umbra")
    assert terms.failure is not None
    assert (terms.max_waiting, terms.failure.code, terms.failure.retryable) == (0, "tenant_unknown", False)
    # who is listed, and who names no tenant, is served
    assert Tenants(listed=True).terms("acme") == Tenants(listed=True).terms(None) == Terms()


def test_no_name_leads_out_of_the_folder(folder: Path) -> None:
    (folder.parent / "policies").mkdir()
    write(folder.parent / "policies", name="acme")
    assert Tenants().find("../policies/acme") is None


def test_a_folder_that_is_away_is_no_reason_to_serve_a_tenant_by_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("M3AGIQA_CONFIG_DIR", str(tmp_path / "gone"))
    terms = Tenants().terms("acme")
    assert terms.failure is not None
    assert terms.failure.code == "tenant_misconfigured"


def test_what_is_told_of_a_quota(folder: Path) -> None:
    write(folder, "max_waiting: 5", "images_per_day: 70")
    failure = Tenants().terms("acme").failure
    assert failure is not None
    assert (failure.code, failure.retryable) == ("quota_exceeded", True)
    assert failure.message == "its tenant may have 5 waiting at once and 70 a day (UTC); try again later"
