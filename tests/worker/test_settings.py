from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from m3agiqa.errors import ConfigError
from producers import cli
from tests.support import PATIENCE_S, ROOT
from worker.ops.reporting import setup_sentry
from worker.runtime import Runtime
from worker.settings import Settings, variable

#: A value of each setting that is none, and of some another one.
MALFORMED = {
    "redis_url": ("localhost:6379", "redis://user:hunter#2@host"),
    "namespace": ("a b", "a:b", "*"),
    "redis_silence_s": ("soon", "1", "inf"),
    "model": ("none-such", "/none/such.yaml", " "),
    "device": ("gpu", "cuda:", " "),
    "policy": ("none-such", "/none/such.yaml"),
    "config_dir": ("/none/such",),
    "tenants": ("listed,any",),
    "max_batch": ("many", "0", "1.5", "1e99"),
    "max_wait_ms": ("-1", "nan"),
    "score_timeout_s": ("0", "1e99"),
    "score_retry_delays_s": ("5;30", "-5", "nan"),
    "lease_s": ("0", "-inf"),
    "visibility_timeout_s": ("none", "0"),
    "max_lost_runs": ("0",),
    "score_cache_ttl_s": ("-1", "9" * 30),
    "fetch_timeout_s": ("20 s",),
    "fetch_first_byte_s": ("0",),
    "fetch_max_bytes": ("32MB",),
    "fetch_ports": ("http", "0", "65536"),
    "fetch_allow_hosts": ("images.internal", "http://images.internal:80"),
    "fetch_retry_missing": ("maybe",),
    "inline_max_bytes": ("0", "8MB"),
    "upload": ("uploads", "s3://a/../b"),
    "max_pixels": ("4k",),
    "decoders": ("0",),
    "decode_timeout_s": ("0",),
    "picture_budget_mib": ("1",),
    "webhook_secrets": ("hunter2", "whsec_"),
    "webhook_host_secrets": ("{", "[]", '{"a b": []}', '{"host": "hunter2"}'),
    "webhook_host_headers": ("{", '{"host": {"X-A": "hunter2"}}', '{"host:80": {"Host": "hunter2"}}'),
    "deliver_timeout_s": ("10,5",),
    "deliver_retry_delays_s": ("a",),
    "deliver_max_per_host": ("0",),
    "deliver_allow_hosts": ("backend",),
    "slow_share": ("0", "1.1"),
    "user_agent": (" ours", "größer"),
    "s3_endpoint_url": ("store:9000",),
    "s3_addressing_style": ("host",),
    "memory_growth_limit_mib": ("-1",),
    "remote_control": ("maybe",),
    "echo_request": ("maybe",),
    "result_ttl_s": ("0",),
    "dead_letters_mib": ("0",),
    "dead_letters_ttl_s": ("0",),
    "log_format": ("xml",),
    "tracing": ("maybe",),
    "shadow_share": ("0", "1.5"),
    "exporter_port": ("0", "65536", "http"),
    "metrics_port": ("0", "65536", "http"),
    "metrics_address": ("localhost", "256.0.0.1", "0.0.0.0:9809"),
    "sentry_dsn": ("hunter2", "https://sentry.example"),
    "health_dir": ("/dev/null/health",),
}
#: Settings that no text is wrong for, as far as a worker can tell.
ANY_TEXT = {
    "shadow_of",
    "shadow_policy",
    "shadow_file",
    "redis_username",
    "redis_password",
    "sentry_environment",
    "fetch_s3_buckets",
    "deliver_s3_buckets",
}


def test_every_setting_has_a_malformed_value_here() -> None:
    assert MALFORMED.keys() | ANY_TEXT == Settings.model_fields.keys()


def start() -> None:
    """Start what a worker of both queues is made of, and end it."""
    settings = Settings.from_environment()
    setup_sentry(settings)
    Runtime(settings, ["score", "deliver"], 64).close()


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, values in MALFORMED.items() for value in values]
)
def test_a_malformed_value_is_told_in_one_line_by_its_variable(
    field: str, value: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("M3AGIQA_REDIS_URL", redis_url)
    monkeypatch.setenv("M3AGIQA_MODEL", "fake")
    monkeypatch.setenv(variable(field), value)
    # when a worker starts with it
    with pytest.raises(ConfigError, match=variable(field)) as failure:
        start()
    # then the line shows no secret
    assert "\n" not in str(failure.value)
    assert "hunter" not in str(failure.value)


def test_a_producer_is_told_of_a_malformed_url_by_its_variable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("M3AGIQA_REDIS_URL", "localhost:6379")
    assert cli.main(["state", "id"]) != 0
    assert capsys.readouterr().err.startswith("error: M3AGIQA_REDIS_URL: ")


#: As Kubernetes has them in every container, for services called m3agiqa, m3agiqa-score, m3agiqa-redis and so on.
SERVICE_LINKS = {
    **{
        f"M3AGIQA_{service}{name}": value
        for service in ("", "SCORE_", "REDIS_", "MAX_BATCH_", "DELIVER_2_", "EXPORTER_", "METRICS_")
        for name, value in {
            "SERVICE_HOST": "10.0.0.1",
            "SERVICE_PORT": "80",
            "SERVICE_PORT_HTTP_METRICS": "80",
            "PORT": "tcp://10.0.0.1:80",
            "PORT_6379_TCP": "tcp://10.0.0.1:6379",
            "PORT_6379_TCP_PROTO": "tcp",
            "PORT_6379_TCP_PORT": "6379",
            "PORT_6379_TCP_ADDR": "10.0.0.1",
            "PORT_53_UDP": "udp://10.0.0.1:53",
        }.items()
    }
}


def test_what_kubernetes_says_of_services_is_nothing_to_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SERVICE_LINKS.items():
        monkeypatch.setenv(name, value)
    assert Settings.from_environment() == Settings()
    # but a setting with a letter wrong is an error
    monkeypatch.setenv("M3AGIQA_MAX_BATHC", "9")
    with pytest.raises(ConfigError, match="no such setting: M3AGIQA_MAX_BATHC"):
        Settings.from_environment()


def test_what_kubernetes_says_of_services_is_nothing_to_a_producer(redis_url: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "producers.cli", "one", "https://host/a.png", "--prompt", "", "--policy", "default"],
        cwd=ROOT,
        env={"PATH": "", **SERVICE_LINKS, "M3AGIQA_REDIS_URL": redis_url},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("USER_AGENT", "größer"),
        ("USER_AGENT", " ours"),
        ("USER_AGENT", "ours\r\nX: y"),
        ("USER_AGENT", "x" * 300),
        ("S3_ENDPOINT_URL", "store.internal:9000"),
        ("S3_ENDPOINT_URL", "ftp://store.internal"),
        ("S3_ENDPOINT_URL", "http://:9000"),
        ("S3_ENDPOINT_URL", "http://store.internal:0"),
        ("S3_ENDPOINT_URL", "http://store.internal:x"),
        ("S3_ENDPOINT_URL", "http://user:hunter2@store.internal"),
        ("S3_ENDPOINT_URL", "http://store.internal/?x"),
        ("S3_ENDPOINT_URL", "http://store internal"),
        ("S3_ADDRESSING_STYLE", "host"),
    ],
)
def test_a_setting_that_could_never_work_is_an_error(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"M3AGIQA_{name}", value)
    with pytest.raises(ConfigError, match=rf"^M3AGIQA_{name}: ") as failure:
        Settings.from_environment()
    assert "hunter2" not in str(failure.value)


@pytest.mark.parametrize(
    ("settings", "style"),
    [
        ({}, "auto"),
        ({"s3_endpoint_url": "https://store.internal/v1"}, "path"),
        ({"s3_endpoint_url": "https://store.internal", "s3_addressing_style": "virtual"}, "virtual"),
        ({"s3_addressing_style": "path"}, "path"),
    ],
)
def test_where_the_name_of_a_bucket_stands(settings: dict[str, str], style: str) -> None:
    assert Settings(**settings).effective_s3_addressing_style == style
