from __future__ import annotations

import pytest
from celery.app.defaults import NAMESPACES, flatten
from kombu.transport.redis import Channel

from m3agiqa.errors import ConfigError
from worker.app import configuration
from worker.settings import Settings


def test_every_setting_exists_in_this_celery() -> None:
    """Celery and kombu ignore names they do not know."""
    made = configuration(Settings())
    assert set(made) <= {name for name, _ in flatten(NAMESPACES)}
    assert set(made["broker_transport_options"]) <= set(Channel.from_transport_options)


def test_tls_checks_certificates() -> None:
    made = configuration(Settings(redis_url="rediss://host:6379/0"))
    assert made["broker_use_ssl"]["ssl_cert_reqs"].name == "CERT_REQUIRED"
    assert configuration(Settings(redis_url="redis://host:6379/0"))["broker_use_ssl"] is False


def test_the_visibility_timeout_leaves_room_for_a_slow_picture() -> None:
    settings = Settings(fetch_timeout_s=10, max_wait_ms=1000, score_timeout_s=100)
    assert configuration(settings)["broker_transport_options"]["visibility_timeout"] == 333


def test_what_kubernetes_says_of_a_service_is_no_misspelt_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_REDIS", "PORT", "PORT_6379_TCP", "PORT_6379_TCP_ADDR"):
        monkeypatch.setenv(f"M3AGIQA_REDIS_{name}", "tcp://10.0.0.1:6379")
    assert Settings.from_environment().max_batch == 8
    monkeypatch.setenv("M3AGIQA_MAX_BATHC", "9")
    with pytest.raises(ConfigError, match="no such setting: M3AGIQA_MAX_BATHC"):
        Settings.from_environment()


@pytest.mark.parametrize(
    "url",
    [
        "redis://:hunter#2@host:6379/0",
        "redis://:hunter/2@host:6379/0",
        "redis://:hunter?2@host",
        "host:6379",
        "http://h",
    ],
)
def test_a_password_with_odd_characters_is_refused_without_being_shown(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("M3AGIQA_REDIS_URL", url)
    with pytest.raises(ConfigError, match=r"write #, /, \? and @ in a password as %23") as refused:
        Settings.from_environment()
    assert "hunter" not in str(refused.value)
    monkeypatch.setenv("M3AGIQA_REDIS_URL", "rediss://user:hunter%232@host:6379/0")
    assert Settings.from_environment()
