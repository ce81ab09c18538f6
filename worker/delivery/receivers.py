"""Headers of a callback: its signatures, and those that its receiver wants."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from pydantic import SecretStr
from standardwebhooks import Webhook

from m3agiqa.errors import ConfigError, DeliveryForbidden
from m3agiqa.quoting import quoted
from m3agiqa.tenants import Tenant, webhook_key
from worker.settings import Settings
from worker.web.endpoints import by_host, endpoint_of, host_of_endpoint

#: Headers that no setting may name: they frame the message, describe its body, and sign it.
_OURS = re.compile(
    "accept-encoding|connection|content-.*|expect|host|keep-alive|proxy-.*|te|traceparent|tracestate|trailer|transfer-encoding|upgrade"
    "|user-agent|webhook-.*",
    re.IGNORECASE,
)
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
#: Printable ASCII, with blanks inside only: HTTP drops those around a value.
_HEADER_VALUE = re.compile(r"[!-~]([\t -~]*[!-~])?")


class Receivers:
    """Secrets and headers by receiver: those that a setting names, and all others.

    Raises:
        ConfigError: a secret breaks the standard, a header is malformed or one of ours, or a receiver's name is no
            host.
    """

    def __init__(self, settings: Settings) -> None:
        self._signers = _signers(settings.webhook_secrets)
        self._host_signers = {
            host: _signers(secrets)
            for host, secrets in by_host("M3AGIQA_WEBHOOK_HOST_SECRETS", settings.webhook_host_secrets).items()
        }
        self._headers = {
            _endpoint(host): _headers(headers)
            for host, headers in by_host("M3AGIQA_WEBHOOK_HOST_HEADERS", settings.webhook_host_headers).items()
        }

    def headers(self, url: str, message_id: str, body: str, tenant: Tenant | None = None) -> dict[str, str]:
        """All headers to post `body` with, for a tenant that has a file. `message_id` holds no dot.

        Raises:
            DeliveryForbidden: the URL is malformed, the tenant has no callbacks there, or there is no secret to sign
                with.
            TenantMisconfigured: the tenant's secrets cannot be read.
        """
        try:
            endpoint = endpoint_of(url)
        except ValueError:
            raise DeliveryForbidden("the URL cannot be requested: malformed") from None
        if tenant is not None and not tenant.may_call(host_of_endpoint(endpoint)):
            raise DeliveryForbidden(f"callback_hosts of its tenant do not name {host_of_endpoint(endpoint)}")
        own = tenant.secrets() if tenant is not None else []
        signers = [Webhook(webhook_key(secret)) for secret in own] or self.signers(endpoint)
        if not signers:
            raise DeliveryForbidden("callbacks are never sent unsigned: set M3AGIQA_WEBHOOK_SECRETS")
        return {
            **self._headers.get(endpoint, {}),
            "Content-Type": "application/json",
            **_signed(message_id, body, signers),
        }

    def signers(self, endpoint: str) -> list[Webhook]:
        """What signs a callback to this endpoint. A receiver with secrets of its own gets no other signature."""
        hosts = (endpoint, host_of_endpoint(endpoint))
        return next((self._host_signers[host] for host in hosts if host in self._host_signers), self._signers)


def _signed(message_id: str, body: str, signers: Sequence[Webhook]) -> dict[str, str]:
    """Headers of Standard Webhooks, with a signature by each secret: a receiver may still have the old one."""
    now = datetime.now(UTC)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(signer.sign(message_id, now, body) for signer in signers),
    }


def _signers(secrets: Iterable[SecretStr]) -> list[Webhook]:
    return [_signer(secret.get_secret_value()) for secret in secrets]


def _signer(secret: str) -> Webhook:
    try:
        return Webhook(webhook_key(secret))
    except ValueError as error:
        raise ConfigError(f"M3AGIQA_WEBHOOK_SECRETS and M3AGIQA_WEBHOOK_HOST_SECRETS: each {error}") from None


def _endpoint(host: str) -> str:
    """Refuse a host without a port: whoever submits could have its headers sent to any port, in clear text too."""
    if re.search(r":\d+\Z", host):
        return host
    raise ConfigError(f"M3AGIQA_WEBHOOK_HOST_HEADERS: {host} must be host:port or https://host")


def _headers(headers: Mapping[str, SecretStr]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, secret in headers.items():
        value = secret.get_secret_value()
        if not _HEADER_NAME.fullmatch(name):
            wrong = "cannot be the name of a header"
        elif _OURS.fullmatch(name):
            wrong = "is set by the worker alone"
        elif name.lower() in found:
            wrong = "is there twice"
        elif not _HEADER_VALUE.fullmatch(value):
            wrong = "has a value that is no line of printable ASCII"
        else:
            found[name.lower()] = value
            continue
        raise ConfigError(f"M3AGIQA_WEBHOOK_HOST_HEADERS: {quoted(name)!r} {wrong}")
    return found
