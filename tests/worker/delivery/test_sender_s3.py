from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from botocore.exceptions import ClientError

from m3agiqa.errors import DeliveryForbidden, DeliveryUnavailable
from tests.worker.delivery.test_sender import VERDICT, delivery, sender
from worker.delivery.sender import Sender


@pytest.fixture
def bucket(make_bucket: Callable[[str], Any]) -> Any:
    return make_bucket("verdicts")


def to_s3(endpoint: str, **settings: Any) -> Sender:
    return sender(s3_endpoint_url=endpoint, deliver_s3_buckets=("verdicts", "missing"), **settings)


def keys(bucket: Any) -> list[str]:
    return [found.key for found in bucket.objects.all()]


@pytest.mark.parametrize(
    ("prefix", "key"),
    [
        ("", "results/v1/dt=2026-02-28/r-1.json"),
        ("/", "results/v1/dt=2026-02-28/r-1.json"),
        ("/team", "team/results/v1/dt=2026-02-28/r-1.json"),
        ("/team/a b/", "team/a b/results/v1/dt=2026-02-28/r-1.json"),
    ],
)
def test_a_verdict_lies_under_the_day_it_was_submitted(prefix: str, key: str, bucket: Any, s3_endpoint: str) -> None:
    # Given a request submitted on 1 March in Tokyo, when it was still February in UTC
    submitted_at = datetime(2026, 3, 1, 8, 59, tzinfo=timezone(timedelta(hours=9)))
    to_s3(s3_endpoint).send(delivery(f"s3://verdicts{prefix}", "s3", submitted_at=submitted_at))
    assert keys(bucket) == [key]
    found = bucket.Object(key).get()
    assert found["Body"].read() == VERDICT.encode()
    assert found["ContentType"] == "application/json"


def test_delivered_twice_is_one_object_with_the_first_content(bucket: Any, s3_endpoint: str) -> None:
    first = delivery("s3://verdicts/team", "s3")
    to_s3(s3_endpoint).send(first)
    to_s3(s3_endpoint).send(replace(first, body="{}"))
    [key] = keys(bucket)
    assert bucket.Object(key).get()["Body"].read() == VERDICT.encode()


def test_no_secret_is_needed_for_s3(bucket: Any, s3_endpoint: str) -> None:
    to_s3(s3_endpoint, webhook_secrets=()).send(delivery("s3://verdicts", "s3"))
    assert len(keys(bucket)) == 1


def test_a_bucket_that_is_not_allowed_is_forbidden(bucket: Any, s3_endpoint: str) -> None:
    for url in ("s3://others/team", "s3://", "s3:///verdicts", "s3://verdicts.evil/"):
        with pytest.raises(DeliveryForbidden, match="not on the list"):
            to_s3(s3_endpoint).send(delivery(url, "s3"))
    assert keys(bucket) == []


@pytest.mark.parametrize("prefix", ["..", "../others", "a/../../others", "a/./b", ".", "a/..", "a\\b", "a\nb", "a\x7f"])
def test_a_prefix_that_could_lead_elsewhere_is_forbidden(prefix: str, bucket: Any, s3_endpoint: str) -> None:
    with pytest.raises(DeliveryForbidden, match="s3://verdicts: a key with") as raised:
        to_s3(s3_endpoint).send(delivery(f"s3://verdicts/{prefix}", "s3"))
    assert "others" not in str(raised.value)
    assert keys(bucket) == []


def test_dots_in_a_prefix_are_as_good_as_letters(bucket: Any, s3_endpoint: str) -> None:
    to_s3(s3_endpoint).send(delivery("s3://verdicts/a..b/...", "s3"))
    [key] = keys(bucket)
    assert key.startswith("a..b/.../results/")


def test_a_word_of_the_service_fills_no_message(serve: Any, aws: None) -> None:
    body = f"<Error><Code>{'x' * 100_000}</Code></Error>".encode()
    server = serve(lambda request: request.reply(409, body, content_type="application/xml"))
    with pytest.raises(DeliveryUnavailable) as raised:
        to_s3(server.url).send(delivery("s3://verdicts", "s3"))
    assert len(str(raised.value)) < 200


def test_a_bucket_that_is_not_there_is_forbidden(bucket: Any, s3_endpoint: str) -> None:
    with pytest.raises(DeliveryForbidden, match="NoSuchBucket"):
        to_s3(s3_endpoint).send(delivery("s3://missing/team", "s3"))


@pytest.mark.parametrize(
    ("status", "code", "failure"),
    [
        (403, "AccessDenied", DeliveryForbidden),
        (409, "ConditionalRequestConflict", DeliveryUnavailable),
        (503, "SlowDown", DeliveryUnavailable),
        (500, "InternalError", DeliveryUnavailable),
    ],
)
def test_what_s3_answers_decides_whether_to_try_again(
    status: int, code: str, failure: Any, serve: Any, aws: None
) -> None:
    body = f"<Error><Code>{code}</Code><Message>SECRET</Message></Error>".encode()
    server = serve(lambda request: request.reply(status, body, content_type="application/xml"))
    with pytest.raises(failure, match=f"s3://verdicts answered {status} {code}") as raised:
        to_s3(server.url).send(delivery("s3://verdicts/SECRET", "s3"))
    assert "SECRET" not in str(raised.value)
    assert [request.method for request in server.received].count("PUT") == 1


def test_an_s3_service_that_hangs_is_given_up(serve: Any, aws: None) -> None:
    server = serve(lambda request: request.server.over.wait(60))
    with pytest.raises(DeliveryUnavailable, match="cannot be reached, or broke off"):
        to_s3(server.url, deliver_timeout_s=0.5).send(delivery("s3://verdicts", "s3"))


def test_moto_itself_refuses_to_overwrite(bucket: Any) -> None:
    """What the tests above rest on."""
    bucket.put_object(Key="k", Body=b"1")
    with pytest.raises(ClientError, match="PreconditionFailed"):
        bucket.put_object(Key="k", Body=b"2", IfNoneMatch="*")
