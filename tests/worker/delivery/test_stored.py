from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from m3agiqa.errors import FetchError
from m3agiqa.report.sources import judged
from tests.support_verdicts import verdict
from tests.worker.delivery.test_sender import delivery, sender
from worker.delivery import stored
from worker.settings import Settings


@pytest.fixture
def bucket(make_bucket: Callable[[str], Any]) -> Any:
    return make_bucket("stored")


def ids(endpoint: str, url: str) -> list[str]:
    return [found.request_id for found in stored.verdicts(Settings(s3_endpoint_url=endpoint), url)]


def test_what_was_delivered_is_found_below_its_prefix(
    bucket: Any, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # given more verdicts than a listing has, and one below another prefix
    monkeypatch.setattr(stored, "_PAGE", 2)
    send = sender(s3_endpoint_url=s3_endpoint, deliver_s3_buckets=("stored",)).send
    names = ["a", "b.json", "c", "d", "e"]
    for name in names:
        send(delivery("s3://stored/team a/", "s3", request=name, body=verdict(name).model_dump_json()))
    send(delivery("s3://stored", "s3", request="z", body=verdict("z").model_dump_json()))
    # then each prefix has its own
    assert ids(s3_endpoint, "s3://stored/team a") == names
    assert ids(s3_endpoint, "s3://stored") == ids(s3_endpoint, "s3://stored/") == ["z"]
    assert ids(s3_endpoint, "s3://stored/team") == []
    # and a command finds them by the URL alone
    monkeypatch.setenv("M3AGIQA_S3_ENDPOINT_URL", s3_endpoint)
    assert [item.id for item in judged("s3://stored/team a")] == names


def test_an_object_that_is_no_verdict_stops_no_other(
    bucket: Any, s3_endpoint: str, caplog: pytest.LogCaptureFixture
) -> None:
    # given objects of somebody else among the verdicts
    bodies = {"a": b"?", "b\u202e": b"{}", "c": b" " * stored.MAX_BYTES + b"{}", "d": b"[" * 100_000}
    for name, body in {**bodies, "good": verdict("good").model_dump_json().encode()}.items():
        bucket.put_object(Key=f"results/v1/dt=2026-01-01/{name}.json", Body=body)
    bucket.put_object(Key="results/v1/dt=2026-01-01/readme.txt", Body=b"?")
    # then the verdict is found, and each other has a word
    assert ids(s3_endpoint, "s3://stored") == ["good"]
    words = "\n".join(record.getMessage() for record in caplog.records if record.name == stored.__name__)
    assert words.count("is left out") == len(bodies)
    assert f"more than {stored.MAX_BYTES} bytes" in words
    assert "\u202e" not in words


def test_a_bucket_that_is_not_there_is_an_error(s3_endpoint: str, aws: None) -> None:
    for url in ("s3://none-such/x", "s3://none-such/../x"):
        with pytest.raises(FetchError):
            ids(s3_endpoint, url)
