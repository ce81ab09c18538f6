from __future__ import annotations

import pytest

from m3agiqa.errors import ConfigError
from worker.settings import Settings


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
    with pytest.raises(ConfigError, match=name.lower()) as failure:
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
