from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from standardwebhooks import Webhook

from m3agiqa.errors import ConfigError
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
