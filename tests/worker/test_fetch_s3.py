from __future__ import annotations

from typing import Any

import boto3
import pytest

from m3agiqa.errors import FetchForbidden, FetchRefused, FetchUnavailable, ImageTooLarge
from tests.worker.conftest import Tripwire
from tests.worker.test_fetch_time import drip_body
from worker.fetch import Fetcher
from worker.settings import Settings


@pytest.fixture
def bucket(s3_endpoint: str, aws: None, request: pytest.FixtureRequest) -> Any:
    bucket = boto3.session.Session().resource("s3", endpoint_url=s3_endpoint).Bucket("pictures")
    bucket.create()
    yield bucket
    bucket.objects.delete()
    bucket.delete()


def from_s3(endpoint: str, **settings: Any) -> Fetcher:
    return Fetcher(Settings(s3_endpoint_url=endpoint, fetch_s3_buckets=("pictures", "missing"), **settings))


@pytest.mark.parametrize("key", ["a/b.png", "ümlaut and space.png", "odd?x=1&y#z%20.png"])
def test_an_object_is_fetched_by_its_literal_key(key: str, bucket: Any, s3_endpoint: str) -> None:
    bucket.put_object(Key=key, Body=b"picture")
    assert from_s3(s3_endpoint).fetch(f"s3://pictures/{key}") == b"picture"


def test_a_key_that_is_not_there_is_refused(bucket: Any, s3_endpoint: str) -> None:
    with pytest.raises(FetchRefused, match="404 NoSuchKey") as failure:
        from_s3(s3_endpoint).fetch("s3://pictures/SECRET")
    assert "SECRET" not in str(failure.value)


def test_a_bucket_that_is_not_there_is_refused(bucket: Any, s3_endpoint: str) -> None:
    with pytest.raises(FetchRefused, match="NoSuchBucket"):
        from_s3(s3_endpoint).fetch("s3://missing/key")


@pytest.mark.parametrize("url", ["s3://others/key", "s3://", "s3:///key", "s3://pictures", "s3://pictures/"])
def test_a_bucket_that_is_not_allowed_or_no_key_is_forbidden(url: str, bucket: Any, s3_endpoint: str) -> None:
    with pytest.raises(FetchForbidden):
        from_s3(s3_endpoint).fetch(url)


def test_an_object_over_the_limit_is_too_large(bucket: Any, s3_endpoint: str) -> None:
    bucket.put_object(Key="big", Body=b"x" * 1001)
    with pytest.raises(ImageTooLarge, match="1001"):
        from_s3(s3_endpoint, fetch_max_bytes=1000).fetch("s3://pictures/big")


@pytest.mark.parametrize(("status", "failure"), [(500, FetchUnavailable), (503, FetchUnavailable), (403, FetchRefused)])
def test_what_s3_answers_decides_whether_to_try_again(status: int, failure: Any, serve: Any, aws: None) -> None:
    server = serve(lambda request: request.reply(status))
    with pytest.raises(failure, match=str(status)):
        from_s3(server.url).fetch("s3://pictures/key")
    assert len(server.received) == 1


def test_an_object_that_breaks_off_may_be_tried_again(serve: Any, aws: None) -> None:
    server = serve(lambda request: request.reply(200, b"half", content_length="8"))
    with pytest.raises(FetchUnavailable):
        from_s3(server.url).fetch("s3://pictures/key")


@pytest.mark.parametrize("answer", [drip_body, lambda request: request.server.over.wait(60)])
def test_an_s3_service_that_hangs_is_given_up(answer: Any, serve: Any, aws: None) -> None:
    server = serve(answer)
    with pytest.raises(FetchUnavailable):
        from_s3(server.url, fetch_timeout_s=0.5).fetch("s3://pictures/key")


def test_no_s3_service_may_be_tried_again(tripwire: Tripwire, aws: None) -> None:
    tripwire.socket.close()
    with pytest.raises(FetchUnavailable, match="EndpointConnectionError"):
        from_s3(f"http://127.0.0.1:{tripwire.port}").fetch("s3://pictures/key")
