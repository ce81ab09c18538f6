from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from m3agiqa.errors import ConfigError, DeliveryForbidden, DeliveryMisconfigured, DeliveryUnavailable
from tests.worker.delivery.test_sender import VERDICT, delivery, sender
from worker.delivery.sender import Delivery, Sender


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


def test_a_verdict_after_another_try_lies_beside_the_first(bucket: Any, s3_endpoint: str) -> None:
    first = delivery("s3://verdicts/team", "s3")
    written = [to_s3(s3_endpoint).send(replace(first, retries=retries)) for retries in (0, 1, 1)]
    assert written[1] == written[2] == written[0].replace("r-1.json", "r-1!1.json")
    assert [f"s3://verdicts/{key}" for key in keys(bucket)] == sorted(set(written))


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
    ("status", "code", "failure", "told"),
    [
        (409, "ConditionalRequestConflict", DeliveryUnavailable, ""),
        (503, "SlowDown", DeliveryUnavailable, ""),
        (500, "InternalError", DeliveryUnavailable, ""),
        (400, "RequestTimeout", DeliveryUnavailable, ""),
        (400, "NewWord", DeliveryMisconfigured, ""),
        (403, "AccessDenied", DeliveryForbidden, "credentials do not allow it"),
        (403, "NewWord", DeliveryForbidden, "credentials do not allow it"),
        (403, "InvalidAccessKeyId", DeliveryForbidden, "access key is not known"),
        (403, "SignatureDoesNotMatch", DeliveryForbidden, "secret key does not fit"),
        (404, "NoSuchBucket", DeliveryForbidden, "no such bucket"),
        (301, "PermanentRedirect", DeliveryForbidden, "another region"),
        *((status, "NewWord", DeliveryForbidden, "another region") for status in (301, 302, 307, 308)),
        (400, "AuthorizationHeaderMalformed", DeliveryForbidden, "another region"),
        (400, "EntityTooLarge", DeliveryForbidden, "nothing so large"),
        (413, "NewWord", DeliveryForbidden, "nothing so large"),
        (403, "QuotaExceeded", DeliveryMisconfigured, "quota"),
        (400, "XMinioAdminBucketQuotaExceeded", DeliveryMisconfigured, "quota"),
        (507, "XMinioStorageFull", DeliveryMisconfigured, "quota"),
        (507, "InsufficientStorage", DeliveryMisconfigured, "quota"),
        (400, "ExpiredToken", DeliveryMisconfigured, "session token"),
        (400, "InvalidToken", DeliveryMisconfigured, "session token"),
        (403, "RequestTimeTooSkewed", DeliveryMisconfigured, "clock"),
    ],
)
def test_what_s3_answers_decides_whether_to_try_again(
    status: int, code: str, failure: Any, told: str, serve: Any, aws: None, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(refusing(status, code))
    made = to_s3(server.url)
    for _ in range(2):
        with pytest.raises(failure, match=f"s3://verdicts answered {status} {code}.*{told}") as raised:
            made.send(delivery("s3://verdicts/SECRET", "s3"))
        assert type(raised.value) is failure
        assert "SECRET" not in str(raised.value)
    # What only an operator can change is told to one, and not each time
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert errors == ([str(raised.value)] if told else [])


def refusing(status: int, code: str) -> Callable[[Any], None]:
    body = f"<Error><Code>{code}</Code><Message>SECRET</Message></Error>".encode()
    return lambda request: request.reply(status, body, content_type="application/xml")


def test_without_credentials_an_operator_is_told(
    serve: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    server = serve(lambda request: request.reply())
    with pytest.raises(DeliveryMisconfigured, match="NoCredentialsError: the worker's credentials are missing"):
        to_s3(server.url).send(delivery("s3://verdicts", "s3"))
    assert "credentials are missing" in caplog.text
    assert server.received == []


def test_a_profile_that_is_not_there_is_an_error_at_the_start(aws: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(ConfigError, match=r"ProfileNotFound.*AWS_PROFILE"):
        to_s3("http://127.0.0.1:1")


# --- services other than AWS -------------------------------------------------------------------------------------


class Store:
    """A bucket in memory, which answers to If-None-Match as it is told: with this status if the object is there, with
    that one if it is not; None does as asked. Without a look allowed, HEAD is forbidden.
    """

    def __init__(self, *, there: int | None = None, missing: int | None = None, look: bool = True) -> None:
        self.objects: dict[str, bytes] = {}
        self.asked: list[str] = []
        self._there, self._missing, self._look = there, missing, look

    def __call__(self, request: Any) -> None:
        received = request.server.received[-1]
        path, found = received.path, self.objects.get(received.path)
        conditional = "if-none-match" in received.headers
        self.asked.append(f"{received.method}{' if none' if conditional else ''}")
        if received.method == "HEAD":
            status = 403 if not self._look else 200 if found is not None else 404
            request.reply(status, found or b"")
            return
        answer = (self._there if found is not None else self._missing) if conditional else None
        if answer is not None:
            refusing(answer, "NotImplemented" if answer == 501 else "NewWord")(request)
            return
        self.objects[path] = received.body
        request.reply(200, etag='"x"')


KEY = "/verdicts/results/v1/dt%3D2026-02-28/r-1.json"


def dated(**fields: Any) -> Delivery:
    return delivery("s3://verdicts", "s3", submitted_at=datetime(2026, 2, 28, tzinfo=UTC), **fields)


def test_a_bucket_with_object_lock_gets_the_checksum_it_wants(serve: Any, aws: None) -> None:
    def answer(request: Any) -> None:
        received = request.server.received[-1]
        digest = base64.b64encode(hashlib.md5(received.body).digest()).decode()
        request.reply(200 if received.headers.get("content-md5") == digest else 400)

    server = serve(answer)
    to_s3(server.url).send(dated())
    assert [request.method for request in server.received] == ["PUT"]


@pytest.mark.parametrize("status", [400, 501, 304])
def test_a_service_that_knows_no_condition_is_looked_at_first(
    status: int, serve: Any, aws: None, caplog: pytest.LogCaptureFixture
) -> None:
    # Given a service that refuses the condition, whatever it holds
    store = Store(there=status, missing=status)
    made = to_s3(serve(store).url)
    # When three verdicts are delivered, one of them twice
    for request_id in ("r-1", "r-2", "r-3"):
        made.send(dated(request=request_id))
    made.send(dated(body="{}"))
    # Then each is there as it came first, and the condition was tried once
    assert len(store.objects) == 3
    assert set(store.objects.values()) == {VERDICT.encode()}
    assert store.asked == ["PUT if none", "HEAD", "PUT", "HEAD", "PUT", "HEAD", "PUT", "HEAD"]
    assert caplog.text.count("s3://verdicts takes no If-None-Match") == 1


@pytest.mark.parametrize("status", [304, 409, 412])
def test_whatever_a_service_says_of_an_object_that_is_there_it_stays(
    status: int, serve: Any, aws: None, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(there=status)
    made = to_s3(serve(store).url)
    made.send(dated())
    made.send(dated(body="{}"))
    assert store.objects == {KEY: VERDICT.encode()}
    # and the next one is written with the condition again
    made.send(dated(request="r-2"))
    assert store.asked[-1] == "PUT if none"
    assert "takes no" not in caplog.text


def test_an_object_without_content_is_none(serve: Any, aws: None) -> None:
    store = Store(there=501, missing=501)
    store.objects[KEY] = b""
    to_s3(serve(store).url).send(dated())
    assert store.objects == {KEY: VERDICT.encode()}


def test_where_nobody_may_look_the_verdict_is_written(serve: Any, aws: None) -> None:
    store = Store(there=501, missing=501, look=False)
    made = to_s3(serve(store).url)
    made.send(dated())
    made.send(dated())
    assert store.objects == {KEY: VERDICT.encode()}


def test_a_refusal_that_is_not_about_the_condition_is_told_as_it_is(
    serve: Any, aws: None, caplog: pytest.LogCaptureFixture
) -> None:
    made = to_s3(serve(refusing(501, "NotImplemented")).url)
    with pytest.raises(DeliveryForbidden, match="501 NotImplemented: the service does not support this"):
        made.send(dated())
    assert "takes no If-None-Match" not in caplog.text


def test_a_service_that_fails_while_it_is_looked_at_may_be_tried_again(serve: Any, aws: None) -> None:
    def answer(request: Any) -> None:
        request.reply(503 if request.command == "HEAD" else 501)

    with pytest.raises(DeliveryUnavailable, match="answered 503"):
        to_s3(serve(answer).url).send(dated())


def test_an_s3_service_that_hangs_is_given_up(serve: Any, aws: None) -> None:
    server = serve(lambda request: request.server.over.wait(60))
    with pytest.raises(DeliveryUnavailable, match="cannot be reached, or broke off"):
        to_s3(server.url, deliver_timeout_s=0.5).send(delivery("s3://verdicts", "s3"))


def test_moto_itself_refuses_to_overwrite(bucket: Any) -> None:
    """The tests above rely on this."""
    bucket.put_object(Key="k", Body=b"1")
    with pytest.raises(ClientError, match="PreconditionFailed"):
        bucket.put_object(Key="k", Body=b"2", IfNoneMatch="*")
