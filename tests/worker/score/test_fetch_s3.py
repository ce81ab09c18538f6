from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from m3agiqa.contract import ScoreRequest
from m3agiqa.errors import FetchForbidden, FetchRefused, FetchUnavailable, ImageTooLarge
from tests.worker.conftest import Tripwire, resolver
from tests.worker.delivery.test_sender import delivery
from tests.worker.delivery.test_sender_s3 import refusing, to_s3
from tests.worker.score.test_fetch_time import drip_body
from worker.score.fetch import Fetcher
from worker.settings import Settings


@pytest.fixture
def bucket(make_bucket: Callable[[str], Any]) -> Any:
    return make_bucket("images")


def from_s3(endpoint: str, **settings: Any) -> Fetcher:
    return Fetcher(Settings(s3_endpoint_url=endpoint, fetch_s3_buckets=("images", "missing"), **settings))


@pytest.mark.parametrize("key", ["a/b.png", "ümlaut and space.png", "odd?x=1&y#z%20.png"])
def test_an_object_is_fetched_by_its_literal_key(key: str, bucket: Any, s3_endpoint: str) -> None:
    bucket.put_object(Key=key, Body=b"picture")
    assert from_s3(s3_endpoint).fetch(f"s3://images/{key}") == b"picture"


@pytest.mark.parametrize(
    "key",
    ["../private/a", "..", "a/../b", "a/..", "./a", "a/./b", ".", "a/.", "a\\..\\b", "a\nb", "a\x00", "a\x85b"],
)
def test_a_key_that_could_lead_elsewhere_is_forbidden(key: str, serve: Any, aws: None) -> None:
    server = serve(lambda request: request.reply(200, b"inside"))
    with pytest.raises(FetchForbidden, match="s3://images: a key with") as failure:
        from_s3(server.url).fetch(f"s3://images/{key}")
    assert "private" not in str(failure.value)
    assert server.received == []


@pytest.mark.parametrize("key", ["a..b", "..a", "a..", "...", "a/.hidden", "%2e%2e/a"])
def test_dots_in_a_name_are_as_good_as_letters(key: str, bucket: Any, s3_endpoint: str) -> None:
    bucket.put_object(Key=key, Body=b"picture")
    assert from_s3(s3_endpoint).fetch(f"s3://images/{key}") == b"picture"


def test_a_request_may_name_a_key_with_spaces(bucket: Any, s3_endpoint: str) -> None:
    bucket.put_object(Key=" a b%20c+d.png", Body=b"picture")
    request = ScoreRequest.parse({"image_url": "s3://images/ a b%20c+d.png", "prompt": ""})
    assert from_s3(s3_endpoint).fetch(request.image_url) == b"picture"


def in_chunks(*chunks: bytes, end: bytes = b"0\r\n\r\n") -> Callable[[Any], None]:
    def answer(request: Any) -> None:
        request.protocol_version = "HTTP/1.1"
        request.send_response(200)
        request.send_header("transfer-encoding", "chunked")
        request.send_header("connection", "close")
        request.end_headers()
        request.wfile.write(b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + end)

    return answer


def test_an_object_may_come_in_chunks_without_a_length(serve: Any, aws: None) -> None:
    server = serve(in_chunks(b"pic", b"ture"))
    assert from_s3(server.url).fetch("s3://images/key") == b"picture"


def test_an_object_in_chunks_is_limited_like_any(serve: Any, aws: None) -> None:
    server = serve(in_chunks(b"x" * 600, b"x" * 600))
    with pytest.raises(ImageTooLarge, match="more than 1000"):
        from_s3(server.url, fetch_max_bytes=1000).fetch("s3://images/key")


@pytest.mark.parametrize("end", [b"", b"8\r\nhalf"])
def test_an_object_whose_chunks_break_off_may_be_tried_again(end: bytes, serve: Any, aws: None) -> None:
    server = serve(in_chunks(b"pic", end=end))
    with pytest.raises(FetchUnavailable):
        from_s3(server.url).fetch("s3://images/key")


def test_s3_is_reached_directly_whatever_proxies_the_environment_names(
    serve: Any, tripwire: Tripwire, aws: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a proxy for everything
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{tripwire.port}")
        monkeypatch.setenv(name.upper(), f"http://127.0.0.1:{tripwire.port}")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = serve(lambda request: request.reply(200, b"picture" if request.command == "GET" else b""))
    # When an object is fetched and a verdict delivered, then neither goes there
    assert from_s3(server.url).fetch("s3://images/key") == b"picture"
    to_s3(server.url).send(delivery("s3://verdicts", "s3"))
    assert [request.method for request in server.received] == ["GET", "PUT"]
    assert not tripwire.touched()


def test_a_key_that_is_not_there_is_refused(bucket: Any, s3_endpoint: str) -> None:
    with pytest.raises(FetchRefused, match="404 NoSuchKey") as failure:
        from_s3(s3_endpoint).fetch("s3://images/SECRET")
    assert "SECRET" not in str(failure.value)


def test_a_key_that_is_not_there_may_be_tried_again_if_that_is_wanted(bucket: Any, s3_endpoint: str) -> None:
    with pytest.raises(FetchUnavailable, match="404 NoSuchKey"):
        from_s3(s3_endpoint, fetch_retry_missing=True).fetch("s3://images/late.png")
    with pytest.raises(FetchRefused, match="NoSuchBucket"):
        from_s3(s3_endpoint, fetch_retry_missing=True).fetch("s3://missing/late.png")


def test_a_bucket_may_be_a_part_of_the_host_name(serve: Any, aws: None, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve(lambda request: request.reply(200, b"picture"))
    resolver(monkeypatch, {"images.store.example": ["127.0.0.1"]})
    endpoint = f"http://store.example:{server.server_port}"
    assert from_s3(endpoint, s3_addressing_style="virtual").fetch("s3://images/a b+c.png") == b"picture"
    [request] = server.received
    assert (request.path, request.headers["host"]) == (
        "/a%20b%2Bc.png",
        f"images.store.example:{server.server_port}",
    )


def test_an_endpoint_may_have_a_path(serve: Any, aws: None) -> None:
    server = serve(lambda request: request.reply(200, b"picture"))
    assert from_s3(f"{server.url}/storage/v1/").fetch("s3://images/key") == b"picture"
    assert server.received[0].path == "/storage/v1/images/key"


def test_a_service_says_when_it_wants_to_be_asked_again(serve: Any, aws: None) -> None:
    server = serve(lambda request: request.reply(503, retry_after="7"))
    with pytest.raises(FetchUnavailable) as failure:
        from_s3(server.url).fetch("s3://images/key")
    assert failure.value.retry_after_s == 7


def test_a_bucket_that_is_not_there_is_refused(bucket: Any, s3_endpoint: str) -> None:
    with pytest.raises(FetchRefused, match="NoSuchBucket"):
        from_s3(s3_endpoint).fetch("s3://missing/key")


@pytest.mark.parametrize("url", ["s3://others/key", "s3://", "s3:///key", "s3://images", "s3://images/"])
def test_a_bucket_that_is_not_allowed_or_no_key_is_forbidden(url: str, bucket: Any, s3_endpoint: str) -> None:
    with pytest.raises(FetchForbidden):
        from_s3(s3_endpoint).fetch(url)


def test_an_object_over_the_limit_is_too_large(bucket: Any, s3_endpoint: str) -> None:
    bucket.put_object(Key="big", Body=b"x" * 1001)
    with pytest.raises(ImageTooLarge, match="1001"):
        from_s3(s3_endpoint, fetch_max_bytes=1000).fetch("s3://images/big")


@pytest.mark.parametrize(("status", "failure"), [(500, FetchUnavailable), (503, FetchUnavailable), (403, FetchRefused)])
def test_what_s3_answers_decides_whether_to_try_again(status: int, failure: Any, serve: Any, aws: None) -> None:
    server = serve(lambda request: request.reply(status))
    with pytest.raises(failure, match=str(status)):
        from_s3(server.url).fetch("s3://images/key")
    assert len(server.received) == 1


@pytest.mark.parametrize(
    ("status", "code", "failure", "told"),
    [
        (403, "InvalidAccessKeyId", FetchRefused, "access key is not known"),
        (403, "SignatureDoesNotMatch", FetchRefused, "secret key does not fit"),
        (403, "AccessDenied", FetchRefused, "credentials do not allow it"),
        (400, "ExpiredToken", FetchUnavailable, "session token"),
        (403, "RequestTimeTooSkewed", FetchUnavailable, "clock"),
        (404, "NoSuchBucket", FetchRefused, "no such bucket"),
        (404, "NoSuchKey", FetchRefused, ""),
        (400, "KeyTooLongError", FetchRefused, ""),
    ],
)
def test_what_only_an_operator_can_change_is_named_and_logged_once(
    status: int, code: str, failure: Any, told: str, serve: Any, aws: None, caplog: pytest.LogCaptureFixture
) -> None:
    fetcher = from_s3(serve(refusing(status, code)).url)
    for _ in range(2):
        with pytest.raises(failure, match=f"s3://images answered {status} {code}.*{told}") as raised:
            fetcher.fetch("s3://images/SECRET")
        assert "SECRET" not in str(raised.value)
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert errors == ([str(raised.value)] if told else [])


def test_an_object_that_breaks_off_may_be_tried_again(serve: Any, aws: None) -> None:
    server = serve(lambda request: request.reply(200, b"half", content_length="8"))
    with pytest.raises(FetchUnavailable):
        from_s3(server.url).fetch("s3://images/key")


@pytest.mark.parametrize("answer", [drip_body, lambda request: request.server.over.wait(60)])
def test_an_s3_service_that_hangs_is_given_up(answer: Any, serve: Any, aws: None) -> None:
    server = serve(answer)
    with pytest.raises(FetchUnavailable):
        from_s3(server.url, fetch_timeout_s=0.5).fetch("s3://images/key")


def test_no_s3_service_may_be_tried_again(tripwire: Tripwire, aws: None) -> None:
    tripwire.socket.close()
    with pytest.raises(FetchUnavailable, match="EndpointConnectionError"):
        from_s3(f"http://127.0.0.1:{tripwire.port}").fetch("s3://images/key")
