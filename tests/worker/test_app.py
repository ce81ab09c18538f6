from __future__ import annotations

import pytest
from celery.app.defaults import NAMESPACES, flatten
from kombu.transport.redis import Channel, Transport

from m3agiqa.errors import ConfigError
from worker.app import configuration
from worker.settings import Settings, variable


def test_every_setting_exists_in_this_celery() -> None:
    """Celery and kombu ignore names they do not know."""
    made = configuration(Settings())
    assert set(made) <= {name for name, _ in flatten(NAMESPACES)}
    assert set(made["broker_transport_options"]) <= set(Channel.from_transport_options)


def test_tls_checks_certificates() -> None:
    made = configuration(Settings(redis_url="rediss://host:6379/0"))
    assert made["broker_use_ssl"]["ssl_cert_reqs"].name == "CERT_REQUIRED"
    assert configuration(Settings(redis_url="redis://host:6379/0"))["broker_use_ssl"] is False


def test_the_visibility_timeout_leaves_room_for_a_slow_image() -> None:
    settings = Settings(fetch_timeout_s=10, max_wait_ms=1000, score_timeout_s=100)
    assert configuration(settings)["broker_transport_options"]["visibility_timeout"] == 333


def test_an_empty_variable_is_one_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.setenv(variable(name), "")
    assert Settings.from_environment() == Settings()
    # and a list is made empty by a comma
    monkeypatch.setenv("M3AGIQA_SCORE_RETRY_DELAYS_S", ",")
    assert Settings.from_environment().score_retry_delays_s == ()


def test_the_broker_is_where_the_ledger_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("M3AGIQA_REDIS_URL", " 'valkeys://host/3' ")
    monkeypatch.setenv("M3AGIQA_REDIS_PASSWORD", "#/?%@ :")
    made = configuration(settings := Settings.from_environment())
    assert made["broker_url"] == settings.redis.url == "rediss://:%23%2F%3F%25%40%20%3A@host:6379/3"
    assert made["broker_use_ssl"]
    assert "#/?" not in repr(settings)


def test_no_connection_waits_for_ever() -> None:
    options = configuration(Settings(redis_silence_s=3))["broker_transport_options"]
    assert (options["socket_timeout"], options["health_check_interval"]) == (3, 3)
    # nor does Redis keep quiet for so long while nothing comes
    assert Transport.brpop_timeout < Settings.model_fields["redis_silence_s"].metadata[0].ge


def test_rate_limits_are_refused() -> None:
    assert configuration(Settings())["worker_disable_rate_limits"]


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
