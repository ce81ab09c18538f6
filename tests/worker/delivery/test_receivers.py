from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from standardwebhooks import Webhook

from m3agiqa.errors import ConfigError, DeliveryForbidden, TenantMisconfigured
from m3agiqa.tenants import Tenant
from tests.worker.delivery.test_sender import NEW, OLD, STRANGER
from worker.delivery.receivers import Receivers
from worker.settings import Settings
from worker.web.endpoints import endpoint_of


def receivers(**settings: Any) -> Receivers:
    return Receivers(Settings(**{"webhook_secrets": (NEW,), **settings}))


@pytest.mark.parametrize(
    ("key", "url"),
    [
        ("tenant.example", "https://tenant.example/hook"),
        ("tenant.example", "https://tenant.example./hook"),
        ("tenant.example", "https://Tenant.Example:443/hook"),
        ("tenant.example", "http://tenant.example:8080"),
        ("TENANT.example.", "https://tenant.example/hook"),
        ("tenant.example:443", "https://tenant.example/hook"),
        ("tenant.example:80", "http://tenant.example"),
        ("https://tenant.example", "https://tenant.example/hook"),
        ("https://tenant.example/", "https://tenant.example:443"),
        ("http://tenant.example:80", "http://tenant.example/hook"),
        ("bücher.example", "https://bücher.example/hook"),
        ("bücher.example", "https://xn--bcher-kva.example/hook"),
        ("xn--bcher-kva.example", "https://BÜCHER.example/hook"),
        ("[::1]", "https://[::1]/hook"),
        ("::1", "https://[0:0::1]:443/hook"),
        ("tenant.example:443", "https://user@tenant.example/hook"),
    ],
)
def test_a_receivers_own_secret_is_found_in_whatever_spelling(key: str, url: str) -> None:
    made = receivers(webhook_host_secrets={key: (OLD,), "other.example": (STRANGER,)})
    now = datetime.now(UTC)
    [signer] = made.signers(endpoint_of(url))
    assert signer.sign("id", now, "") == Webhook(OLD).sign("id", now, "")


@pytest.mark.parametrize(
    "url",
    [
        "https://tenant.example:8443/",
        "http://tenant.example/",
        "https://a.tenant.example/",
        "https://tenant.example.org/",
    ],
)
def test_another_receivers_secret_is_not(url: str) -> None:
    made = receivers(webhook_host_secrets={"https://tenant.example": (OLD,)})
    now = datetime.now(UTC)
    [signer] = made.signers(endpoint_of(url))
    assert signer.sign("id", now, "") == Webhook(NEW).sign("id", now, "")


def test_the_port_is_more_than_the_host() -> None:
    made = receivers(webhook_host_secrets={"tenant.example": (OLD,), "tenant.example:8443": (STRANGER,)})
    now = datetime.now(UTC)
    for url, secret in (("https://tenant.example:8443", STRANGER), ("https://tenant.example", OLD)):
        [signer] = made.signers(endpoint_of(url))
        assert signer.sign("id", now, "") == Webhook(secret).sign("id", now, "")


@pytest.mark.parametrize(
    "key", ["", "*.example.com", "a b", "https://tenant.example/hooks", "user@tenant.example", "tenant.example:port"]
)
def test_a_secret_for_what_is_no_host_is_an_error(key: str) -> None:
    with pytest.raises(ConfigError, match="M3AGIQA_WEBHOOK_HOST_SECRETS"):
        receivers(webhook_host_secrets={key: (OLD,)})


def test_two_spellings_of_a_host_are_an_error() -> None:
    with pytest.raises(ConfigError, match=r"tenant\.example:443 is there twice"):
        receivers(webhook_host_secrets={"tenant.example:443": (OLD,), "https://tenant.example": (NEW,)})


@pytest.mark.parametrize("secret", ["whsec_", "hunter2", "whsec_hunter2!" * 4, "ß" * 40, "QUJD" * 7, "QUJD" * 22])
def test_a_secret_that_is_none_is_an_error_that_does_not_show_it(secret: str) -> None:
    with pytest.raises(ConfigError, match="M3AGIQA_WEBHOOK_SECRETS") as failure:
        receivers(webhook_secrets=(OLD, secret))
    assert secret.removeprefix("whsec_") not in str(failure.value) or secret == "whsec_"


# --- tenants -----------------------------------------------------------------------------------------------------


def tenant(**fields: object) -> Tenant:
    return Tenant.model_validate({"name": "acme", **fields})


def signed_by(headers: dict[str, str], *secrets: str) -> bool:
    """Whether exactly these secrets signed a callback."""
    at = datetime.fromtimestamp(int(headers["webhook-timestamp"]), UTC)
    return headers["webhook-signature"] == " ".join(Webhook(secret).sign("r-1", at, "{}") for secret in secrets)


def test_a_tenants_own_secrets_sign_alone() -> None:
    made = receivers(webhook_secrets=(NEW,), webhook_host_secrets={"shared.example": (OLD,)})
    acme = tenant(webhook_secrets=[STRANGER])
    for url in ("https://shared.example/", "https://other.example/"):
        assert signed_by(made.headers(url, "r-1", "{}", acme), STRANGER)
    # and without its own, those of the receiver, or of all
    assert signed_by(made.headers("https://shared.example/", "r-1", "{}", tenant()), OLD)
    assert signed_by(made.headers("https://other.example/", "r-1", "{}", tenant()), NEW)


def test_nothing_stands_in_for_secrets_that_cannot_be_read(tmp_path: Path) -> None:
    acme = tenant(webhook_secrets_file=tmp_path / "gone")
    with pytest.raises(TenantMisconfigured):
        receivers(webhook_secrets=(NEW,)).headers("https://other.example/", "r-1", "{}", acme)


def test_callbacks_of_a_tenant_go_where_its_file_says() -> None:
    made, acme = receivers(webhook_secrets=(NEW,)), tenant(callback_hosts=["hooks.example", ".acme.example"])
    for host in ("hooks.example", "HOOKS.example.", "a.acme.example:8443"):
        assert made.headers(f"https://{host}/", "r-1", "{}", acme)
    for host in ("acme.example", "evilacme.example", "hooks.example.evil.example"):
        with pytest.raises(DeliveryForbidden, match="callback_hosts"):
            made.headers(f"https://{host}/", "r-1", "{}", acme)


# --- headers -----------------------------------------------------------------------------------------------------


def sent(made: Receivers, url: str) -> dict[str, str]:
    return made.headers(url, "r-1", "{}")


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("tenant.example:443", "https://Tenant.example./hook?x"),
        ("https://tenant.example", "https://tenant.example:443/"),
        ("tenant.example:8080", "http://tenant.example:8080/"),
        ("https://bücher.example", "https://xn--bcher-kva.example/hook"),
        ("[::1]:443", "https://[0::1]/"),
    ],
)
def test_a_receiver_gets_the_headers_it_wants(host: str, url: str) -> None:
    made = receivers(webhook_host_headers={host: {"Authorization": "Bearer a b", "X-Team": "m3"}})
    headers = sent(made, url)
    assert (headers["authorization"], headers["x-team"]) == ("Bearer a b", "m3")
    assert headers["Content-Type"] == "application/json"
    assert "webhook-signature" in headers


@pytest.mark.parametrize(
    "url",
    [
        "http://tenant.example/",
        "https://tenant.example:8443/",
        "https://a.tenant.example/",
        "https://tenant.example.org/",
        "https://other.example/",
    ],
)
def test_no_other_receiver_gets_them(url: str) -> None:
    made = receivers(webhook_host_headers={"https://tenant.example": {"Authorization": "Bearer a"}})
    assert "authorization" not in {name.lower() for name in sent(made, url)}


@pytest.mark.parametrize("host", ["tenant.example", "[::1]", "::1", "*.example", "", "https://tenant.example/hook"])
def test_headers_are_for_a_host_and_a_port(host: str) -> None:
    with pytest.raises(ConfigError, match="M3AGIQA_WEBHOOK_HOST_HEADERS"):
        receivers(webhook_host_headers={host: {"X-Team": "m3"}})


@pytest.mark.parametrize(
    "name",
    [
        "Host",
        "content-length",
        "Content-Type",
        "CONTENT-ENCODING",
        "Transfer-Encoding",
        "Connection",
        "Expect",
        "TE",
        "Upgrade",
        "Proxy-Authorization",
        "Accept-Encoding",
        "User-Agent",
        "webhook-id",
        "Webhook-Signature",
        "webhook-timestamp",
        "traceparent",
        "",
        "a b",
        "a:",
        "x\r\ny",
        "größe",
    ],
)
def test_a_header_that_is_ours_or_none_is_an_error(name: str) -> None:
    with pytest.raises(ConfigError, match=r"^M3AGIQA_WEBHOOK_HOST_HEADERS: .*") as failure:
        receivers(webhook_host_headers={"https://tenant.example": {name: "hunter2"}})
    assert "hunter2" not in str(failure.value)


@pytest.mark.parametrize(
    "value", ["", " ", " hunter2", "hunter2 ", "hunter2\r\nX: y", "hunter2\n", "hunter2\x00", "hunter2 größer"]
)
def test_a_value_that_is_no_line_is_an_error_that_does_not_show_it(value: str) -> None:
    with pytest.raises(ConfigError, match="'X-Key' has a value that is no line") as failure:
        receivers(webhook_host_headers={"https://tenant.example": {"X-Key": value}})
    assert "hunter2" not in str(failure.value)


def test_a_header_there_twice_is_an_error() -> None:
    with pytest.raises(ConfigError, match="'x-key' is there twice"):
        receivers(webhook_host_headers={"https://tenant.example": {"X-Key": "1", "x-key": "2"}})


def test_headers_of_the_environment_are_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("M3AGIQA_WEBHOOK_HOST_HEADERS", '{"tenant.example:443": {"Authorization": "Bearer hunter2"}}')
    settings = Settings.from_environment()
    assert "hunter2" not in repr(settings) + str(settings)
    assert sent(
        Receivers(settings.model_copy(update={"webhook_secrets": (SecretStr(NEW),)})), "https://tenant.example"
    )["authorization"] == ("Bearer hunter2")


@pytest.mark.parametrize("setting", ["WEBHOOK_HOST_HEADERS", "WEBHOOK_HOST_SECRETS"])
@pytest.mark.parametrize("text", ["hunter2", '{"a:1": {"X": "hunter2"', '{"a:1": "hunter2"}', '["hunter2"]'])
def test_what_is_not_as_it_should_be_is_an_error_that_does_not_show_it(
    setting: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"M3AGIQA_{setting}", text)
    with pytest.raises(ConfigError, match=setting) as failure:
        Settings.from_environment()
    assert "hunter2" not in str(failure.value)
