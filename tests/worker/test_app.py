from __future__ import annotations

from celery.app.defaults import NAMESPACES, flatten
from kombu.transport.redis import Channel

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
