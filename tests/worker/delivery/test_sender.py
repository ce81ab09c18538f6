from __future__ import annotations

import base64
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from standardwebhooks import Webhook

from m3agiqa.errors import DeliveryForbidden, DeliveryGone, DeliveryUnavailable
from worker.delivery.sender import MAX_RETRY_AFTER_S, Delivery, Sender, receiver_of
from worker.settings import Settings

OLD, NEW, STRANGER = ("whsec_" + base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2, 3))
VERDICT = json.dumps({"request_id": "r-1", "reasons": ["Straße — 素晴らしい"]}, ensure_ascii=False)


def delivery(url: str, kind: str = "callback", **fields: Any) -> Delivery:
    values = {"request": "r-1", "body": VERDICT, "submitted_at": datetime.now(UTC), **fields}
    return Delivery(kind=kind, url=url, **values)


def sender(*servers: Any, **settings: Any) -> Sender:
    settings = {"webhook_secrets": (NEW,), **settings}
    return Sender(Settings(deliver_allow_hosts=tuple(server.netloc for server in servers), **settings))


# --- what is sent ------------------------------------------------------------------------------------------------


def test_the_bytes_sent_are_the_bytes_signed(serve: Any) -> None:
    server = serve(lambda request: request.reply(204))
    sender(server).send(delivery(f"{server.url}/hook?who=me"))
    [request] = server.received
    assert (request.method, request.path) == ("POST", "/hook?who=me")
    assert request.body == VERDICT.encode()
    assert request.headers["content-type"] == "application/json"
    assert Webhook(NEW).verify(request.body, request.headers) == json.loads(VERDICT)
    with pytest.raises(Exception, match="No matching signature"):
        Webhook(NEW).verify(request.body + b" ", request.headers)
    with pytest.raises(Exception, match="No matching signature"):
        Webhook(STRANGER).verify(request.body, request.headers)


def test_a_callback_names_the_span_of_the_request(serve: Any) -> None:
    server = serve(lambda request: request.reply())
    span = f"00-{'a' * 32}-{'b' * 16}-01"
    sender(server).send(replace(delivery(server.url), traceparent=span))
    sender(server).send(delivery(server.url))
    assert [request.headers.get("traceparent") for request in server.received] == [span, None]


def test_while_secrets_rotate_either_verifies(serve: Any) -> None:
    server = serve(lambda request: request.reply())
    sender(server, webhook_secrets=(OLD, NEW)).send(delivery(server.url))
    [request] = server.received
    assert len(request.headers["webhook-signature"].split(" ")) == 2
    for secret in (OLD, NEW):
        assert Webhook(secret).verify(request.body, request.headers)


def test_a_receiver_with_secrets_of_its_own_gets_signatures_of_these_alone(serve: Any) -> None:
    own, general = (serve(lambda request: request.reply()) for _ in range(2))
    made = sender(own, general, webhook_host_secrets={own.netloc: (STRANGER, OLD)})
    made.send(delivery(own.url))
    made.send(delivery(general.url))
    assert len(own.received[0].headers["webhook-signature"].split(" ")) == 2
    for server, secret in ((own, STRANGER), (own, OLD), (general, NEW)):
        assert Webhook(secret).verify(server.received[0].body, server.received[0].headers)
    for server, secret in ((own, NEW), (general, STRANGER)):
        with pytest.raises(Exception, match="No matching signature"):
            Webhook(secret).verify(server.received[0].body, server.received[0].headers)


def test_a_receiver_with_secrets_of_its_own_may_be_named_without_its_port(serve: Any) -> None:
    server = serve(lambda request: request.reply())
    sender(server, webhook_secrets=(), webhook_host_secrets={"127.0.0.1": (OLD,)}).send(delivery(server.url))
    assert Webhook(OLD).verify(server.received[0].body, server.received[0].headers)


def test_repetitions_carry_the_same_id_and_other_requests_another(serve: Any) -> None:
    server = serve(lambda request: request.reply())
    for request_id in ("a.b", "a.b", "a-b", "a_b"):
        sender(server).send(delivery(server.url, request=request_id))
    ids = [request.headers["webhook-id"] for request in server.received]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 3
    assert not any("." in message_id for message_id in ids), "a dot separates the id from the rest of what is signed"
    for request in server.received:
        assert Webhook(NEW).verify(request.body, request.headers)


def test_a_verdict_after_another_try_carries_an_id_of_its_own(serve: Any) -> None:
    server = serve(lambda request: request.reply())
    for retries in (0, 1, 1, 2):
        assert sender(server).send(delivery(server.url, request="a", retries=retries)) == ""
    assert [request.headers["webhook-id"] for request in server.received] == ["a", "a!1", "a!1", "a!2"]
    for request in server.received:
        assert Webhook(NEW).verify(request.body, request.headers)


def test_nothing_is_sent_unsigned(serve: Any) -> None:
    server = serve(lambda request: request.reply())
    with pytest.raises(DeliveryForbidden, match="M3AGIQA_WEBHOOK_SECRETS"):
        sender(server, webhook_secrets=()).send(delivery(server.url))
    assert server.received == []


def test_headers_of_a_receiver_go_to_it_and_change_nothing_else(serve: Any, caplog: pytest.LogCaptureFixture) -> None:
    server, other = (serve(lambda request: request.reply(500 if request.path == "/bad" else 204)) for _ in range(2))
    caplog.set_level("DEBUG")
    made = sender(server, other, webhook_host_headers={server.netloc: {"authorization": "Bearer hunter2"}})
    made.send(delivery(f"{server.url}/hook"))
    made.send(delivery(f"{other.url}/hook"))
    assert server.received[0].headers["authorization"] == "Bearer hunter2"
    assert "authorization" not in other.received[0].headers
    assert Webhook(NEW).verify(server.received[0].body, server.received[0].headers)
    # nor are they in a failure or a log
    with pytest.raises(DeliveryUnavailable) as failure:
        made.send(delivery(f"{server.url}/bad"))
    assert "hunter2" not in str(failure.value) + caplog.text


def test_a_callback_says_the_name_that_was_set(serve: Any) -> None:
    server = serve(lambda request: request.reply())
    sender(server).send(delivery(server.url))
    sender(server, user_agent="ours/1").send(delivery(server.url))
    names = [request.headers["user-agent"] for request in server.received]
    assert names[0].startswith("m3agiqa/")
    assert names[1] == "ours/1"


# --- what a receiver answers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_any_2xx_is_delivered(status: int, serve: Any) -> None:
    server = serve(lambda request: request.reply(status))
    sender(server).send(delivery(server.url))
    assert len(server.received) == 1


@pytest.mark.parametrize("interim", [[100], [102], [103, 103], [100, 103]])
def test_what_announces_an_answer_is_none(interim: list[int], serve: Any) -> None:
    def answer(request: Any) -> None:
        request.wfile.write(b"".join(b"HTTP/1.1 %d ?\r\nLink: </a>\r\n\r\n" % status for status in interim))
        request.reply(410)

    server = serve(answer)
    with pytest.raises(DeliveryGone):
        sender(server).send(delivery(server.url))


def test_an_answer_of_two_lengths_is_an_answer(serve: Any) -> None:
    """Its body is never read, and sending again what was taken would be worse."""
    server = serve(
        lambda request: request.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok")
    )
    sender(server).send(delivery(server.url))
    assert len(server.received) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_a_failure_and_not_followed(status: int, serve: Any) -> None:
    server = serve(lambda request: request.reply(status, location="/elsewhere"))
    with pytest.raises(DeliveryUnavailable, match=str(status)):
        sender(server).send(delivery(server.url))
    assert len(server.received) == 1


def test_gone_is_gone(serve: Any) -> None:
    server = serve(lambda request: request.reply(410))
    with pytest.raises(DeliveryGone):
        sender(server).send(delivery(server.url))


@pytest.mark.parametrize("status", [300, 304, 400, 401, 404, 422, 429, 500, 503])
def test_any_other_status_may_be_tried_again(status: int, serve: Any) -> None:
    server = serve(lambda request: request.reply(status))
    with pytest.raises(DeliveryUnavailable, match=f"127.0.0.1 answered {status}") as failure:
        sender(server).send(delivery(f"{server.url}/SECRET?token=SECRET"))
    assert failure.value.retry_after_s is None
    assert "SECRET" not in str(failure.value)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("0", 0),
        ("120", 120),
        (" 7 ", 7),
        ("999999999999", MAX_RETRY_AFTER_S),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", MAX_RETRY_AFTER_S),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("9" * 5000, None),
        ("Wed, 21 Oct 99999999999999999999 07:28:00 GMT", None),
        ("Wed, 21 Oct 2015 99999999999999999999:28:00 GMT", None),
        ("Wed, 21 Oct 2015 07:28:00 +99999999999999999999", None),
        ("Mon, 01 Jan 0001 00:00:00 +2359", 0),
        ("Fri, 31 Dec 9999 23:59:59 -2359", MAX_RETRY_AFTER_S),
        ("", None),
    ],
)
def test_the_time_a_receiver_asks_for_is_passed_on(header: str, seconds: float | None, serve: Any) -> None:
    server = serve(lambda request: request.reply(503, retry_after=header))
    with pytest.raises(DeliveryUnavailable) as failure:
        sender(server).send(delivery(server.url))
    assert failure.value.retry_after_s == seconds


def test_a_date_becomes_the_seconds_until_then(serve: Any) -> None:
    then = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    server = serve(lambda request: request.reply(429, retry_after=then))
    with pytest.raises(DeliveryUnavailable) as failure:
        sender(server).send(delivery(server.url))
    assert failure.value.retry_after_s is not None
    assert 3300 < failure.value.retry_after_s <= 3600


def test_an_answer_without_end_does_not_matter(serve: Any) -> None:
    def answer(request: Any) -> None:
        request.reply(200, content_length=str(10**12))
        request.drip(b"x")

    server = serve(answer)
    sender(server, deliver_timeout_s=60).send(delivery(server.url))
    assert len(server.received) == 1


def test_a_receiver_that_drips_headers_is_given_up(serve: Any) -> None:
    def answer(request: Any) -> None:
        request.wfile.write(b"HTTP/1.0 200 OK\r\n")
        request.drip(b"x-more: of the same\r\n")

    server = serve(answer)
    with pytest.raises(DeliveryUnavailable, match=r"took more than 0\.5 s"):
        sender(server, deliver_timeout_s=0.5).send(delivery(server.url))


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{port}/",
        "http://[::ffff:127.0.0.1]:{port}/",
        "http://169.254.169.254/",
        "http://10.0.0.1/hook",
        "http://93.184.215.14:6379/",
        "http://user:password@93.184.215.14/",
        "file:///etc/passwd",
        "http://[::1",
    ],
)
def test_a_receiver_inside_is_forbidden(url: str, serve: Any, connects: Any) -> None:
    server = serve(lambda request: request.reply())
    with pytest.raises(DeliveryForbidden):
        sender().send(delivery(url.format(port=server.server_port)))
    assert connects.tried == []
    assert server.received == []


def test_what_fetching_may_reach_delivering_may_not(serve: Any) -> None:
    server = serve(lambda request: request.reply())
    with pytest.raises(DeliveryForbidden):
        sender(fetch_allow_hosts=(server.netloc,), fetch_ports=(server.server_port,)).send(delivery(server.url))
    assert server.received == []


def test_a_receiver_that_is_down_may_be_tried_again(serve: Any) -> None:
    server = serve(lambda request: request.reply())
    url, to_closed_port = server.url, sender(server)
    server.shutdown()
    server.server_close()
    with pytest.raises(DeliveryUnavailable):
        to_closed_port.send(delivery(url))


# --- who it is sent to -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "receiver"),
    [
        ("https://Hooks.Example.:8443/path?token=1", "hooks.example"),
        ("http://[2001:DB8::0:1]/", "[2001:db8::1]"),
        ("https://größer.example/", "xn--grer-wna1l.example"),
        ("s3://bucket/prefix/key", "s3://bucket"),
        ("S3://bucket", "s3://bucket"),
        ("https://a b/", ""),
        ("", ""),
    ],
)
def test_a_receiver_has_one_name_however_its_url_is_spelt(url: str, receiver: str) -> None:
    assert receiver_of(url) == receiver
