"""Tries a receiver of callbacks: whether it takes a verdict that is signed as the workers sign, and no other."""

from __future__ import annotations

import base64
import secrets
import uuid
from datetime import UTC, datetime

from pydantic import SecretStr

from m3agiqa.contract import Decision, Failure, Verdict
from m3agiqa.errors import DeliveryForbidden, DeliveryGone, DeliveryUnavailable, M3AGIQAError
from worker.delivery.sender import Delivery, Sender
from worker.settings import Settings

#: The event that such a verdict tells. Receivers pass over events that they do not know.
TRIAL = "webhook.test"


def trial(settings: Settings, url: str, tenant: str | None = None) -> list[str]:
    """Post a made-up verdict twice: signed as the tenant's are, or by the secrets of `settings`, and by a secret that
    nobody has. Returns what is wrong with the receiver; nothing if it took the first and refused the second.

    Raises:
        ConfigError: a setting is wrong.
    """
    stranger = settings.model_copy(update={"webhook_secrets": (_secret(),), "webhook_host_secrets": {}})
    wrong = []
    try:
        Sender(settings).send(_delivery(url, tenant))
    except DeliveryForbidden as error:
        return [
            f"workers would post nothing there: {error}; M3AGIQA_DELIVER_ALLOW_HOSTS names what else they may reach"
        ]
    except M3AGIQAError as error:
        wrong.append(f"it did not take a verdict of ours: {error}")
    try:
        Sender(stranger).send(_delivery(url))
    except (DeliveryUnavailable, DeliveryGone):
        return wrong
    return [*wrong, "it took a verdict that a stranger signed: verify webhook-signature before you parse the body"]


def _secret() -> SecretStr:
    return SecretStr("whsec_" + base64.b64encode(secrets.token_bytes(32)).decode())


def _delivery(url: str, tenant: str | None = None) -> Delivery:
    now = datetime.now(UTC)
    verdict = Verdict(
        type=TRIAL,
        request_id=f"webhook-test-{uuid.uuid4().hex}",
        status="failed",
        decision=Decision.REVIEW,
        reasons=("a test of this receiver: no image was submitted",),
        aspects={},
        policy=None,
        model=None,
        image=None,
        timings_ms={},
        attempt=1,
        submitted_at=now,
        scored_at=now,
        metadata={},
        error=Failure(code="webhook_test", message="no image was submitted", retryable=False),
        tenant=tenant,
    )
    return Delivery(verdict.name, "callback", url, verdict.model_dump_json(), now)
