"""What a hostile client may try: it fails alone, is told why, and shows up in no log."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from urllib.parse import urlsplit

import pytest

from m3agiqa.gateway import server
from m3agiqa.gateway.bodies import JSON_BYTES
from tests.m3agiqa.gateway.conftest import Caller, Gateway
from tests.m3agiqa.gateway.test_app import problem
from tests.support import eventually

MANY = 100_000
JSON = {"Content-Type": "application/json"}
#: Bodies that are no request, and the status that each gets.
BODIES: list[tuple[bytes, int]] = [
    (b"", 400),
    (b"{", 400),
    (b'{"image_url": "https://h/a", "prompt": "\xff"}', 400),
    (b'{"image_url": "https://h/a", "prompt": NaN}', 400),
    (b'{"image_url": "https://h/a", "prompt": "", "metadata": {"a": 1e999}}', 400),
    (b'{"image_url": "https://h/a", "prompt": "", "metadata": {"a": ' + b"9" * 5000 + b"}}", 400),
    (b'{"image_url": "https://h/a", "prompt": "", "prompt": "x"}', 400),
    (b'{"image_url": "https://h/a", "prompt": "", "metadata": {"a": 1, "a": 2}}', 400),
    (b"[" * MANY, 400),
    (b'{"a":' * 40_000, 400),
    (b"\x00", 400),
    (b"[]", 422),
    (b"null", 422),
    (b'"x"', 422),
    (b"{}", 422),
    (b'{"image_url": "https://h/a", "prompt": "\\ud800"}', 422),
    (b'{"image_url": "https://h/a", "prompt": "", "metadata": ' + b'{"a":' * 40 + b"1" + b"}" * 41, 422),
    (b'{"image_url": "https://h/a", "prompt": "", "no_field": 1}', 422),
    (b'{"image_url": "https://h/a", "prompt": "", "image": "x"}', 422),
    (b'{"image_url": "https://h/a", "prompt": "", "retry_failed": "yes"}', 422),
    (b'{"image_url": "https://h/a", "prompt": "", "expires_at": 2000000000}', 422),
    (b'{"image_url": "https://h/a", "prompt": "", "priority": "3"}', 422),
    (b'{"image_url": "https://h/a", "prompt": "", "version": "1.0"}', 422),
    (b'{"image_url": "file:///etc/passwd", "prompt": ""}', 422),
    (b'{"image_url": "https://user:hunter2@h/", "prompt": ""}', 422),
    (b'{"image_url": "data:image/png;base64,%%%", "prompt": ""}', 422),
    (b'{"image_url": "https://h/a", "prompt": "", "request_id": "../x"}', 422),
    (b'{"image_url": "https://h/a", "prompt": "", "request_id": "a\\r\\nSet-Cookie: b"}', 422),
]


@pytest.mark.parametrize(("body", "status"), BODIES)
def test_a_body_that_is_no_request(body: bytes, status: int, acme: Caller) -> None:
    answer = acme.ask("POST", "/v1/images", data=body, headers=JSON)
    assert problem(answer) == (status, "request_invalid")
    assert "hunter2" not in answer.text
    assert acme.submit().status_code == 202


@pytest.mark.parametrize("kind", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/mixed; boundary=x"])
def test_a_body_of_another_kind(kind: str, acme: Caller) -> None:
    assert problem(acme.ask("POST", "/v1/images", data=b"{}", headers={"Content-Type": kind})) == (
        415,
        "request_invalid",
    )
    packed = acme.ask("POST", "/v1/images", data=b"{}", headers={**JSON, "Content-Encoding": "gzip"})
    assert problem(packed) == (415, "request_invalid")


IMAGE = ("a.png", b"bytes")
REQUEST = (None, '{"prompt": ""}', "application/json")


@pytest.mark.parametrize(
    ("files", "status"),
    [
        ({"image": IMAGE}, 422),
        ({"request": REQUEST}, 422),
        ({"image": IMAGE, "request": REQUEST, "more": IMAGE}, 422),
        ([("image", IMAGE), ("image", IMAGE), ("request", REQUEST)], 422),
        ({"image": ("a.png", b""), "request": REQUEST}, 422),
        ({"image": (None, "text"), "request": ("r.json", b"{}")}, 422),
        ({"image": IMAGE, "request": (None, '{"prompt": "", "image_url": "https://h/a"}')}, 422),
        ({"image": IMAGE, "request": (None, "{")}, 400),
        ({"image": IMAGE, "request": (None, "x" * (JSON_BYTES + 1))}, 400),
        ({"image": IMAGE, "request": ("r.json", b" " * (JSON_BYTES + 1))}, 413),
    ],
)
def test_a_form_that_is_no_upload(files: object, status: int, acme: Caller) -> None:
    assert problem(acme.ask("POST", "/v1/images", files=files)) == (status, "request_invalid")


@pytest.mark.parametrize(
    "head", ["multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=x"]
)
@pytest.mark.parametrize("body", [b"", b"--x", b"--x\r\n" * 1000, b"--x\r\nContent-Disposition: form-data\r\n\r\n"])
def test_a_form_that_is_none(head: str, body: bytes, acme: Caller) -> None:
    status, code = problem(acme.ask("POST", "/v1/images", data=body, headers={"Content-Type": head}))
    assert status in (400, 422)
    assert code == "request_invalid"


def test_what_is_too_large_is_not_read(start: Callable[..., Gateway]) -> None:
    acme = start(max_image_bytes=1000).caller("acme")
    # given a body that says how long it is, and one that does not
    announced = acme.ask("POST", "/v1/images", data=b" " * (JSON_BYTES + 1), headers=JSON)
    assert problem(announced) == (413, "request_invalid")
    with raw(acme, "POST /v1/images", "Content-Type: application/json", "Transfer-Encoding: chunked") as connection:
        for _ in range(5):
            connection.sendall(b"10000\r\n" + b" " * 65_536 + b"\r\n")
        assert b"413 Request Entity" in connection.recv(65_536) or b"413 Content" in connection.recv(65_536)
    image = acme.ask("POST", "/v1/images", files={"image": ("a", b"x" * 1001), "request": REQUEST})
    assert problem(image) == (422, "request_invalid")


@contextmanager
def raw(caller: Caller, line: str, *headers: str) -> Iterator[socket.socket]:
    """A connection with the head of a request on it."""
    parts = urlsplit(caller.url)
    with socket.create_connection((str(parts.hostname), int(parts.port or 0)), timeout=60) as connection:
        known = [f"{line} HTTP/1.1", "Host: x", f"Authorization: Bearer {caller.key}", *headers]
        connection.sendall("\r\n".join([*known, "", ""]).encode("latin-1"))
        yield connection


def test_slow_clients_are_cut_off_and_stop_nobody(
    start: Callable[..., Gateway], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_HEAD_S", 0.3)
    gateway = start(body_timeout_s=0.3, uploads_per_tenant=1)
    acme = gateway.caller("acme")
    length = "Content-Length: 100"
    parts = urlsplit(acme.url)
    silent = socket.create_connection((str(parts.hostname), int(parts.port or 0)), timeout=60)
    with closing(silent), raw(acme, "POST /v1/images", "Content-Type: application/json", length) as slow:
        silent.sendall(b"GET /healthz HTTP/1.1\r\nHost:")
        # given a head and a body that do not come, then others are served
        assert acme.submit().status_code == 202
        # and both are cut off
        assert slow.recv(65_536).startswith(b"HTTP/1.1 408 ")
        assert silent.recv(65_536) == b""
    # and so is one who goes on after he was refused
    with raw(acme, "PUT /v1/images", "Content-Length: 100000") as stubborn:
        assert stubborn.recv(65_536).startswith(b"HTTP/1.1 405 ")
        eventually(lambda: is_cut_off(stubborn), "it is cut off")


def is_cut_off(connection: socket.socket) -> bool:
    try:
        connection.sendall(b"x")
    except ConnectionError:
        return True
    return False


def test_uploads_have_places(start: Callable[..., Gateway]) -> None:
    acme = start(uploads_per_tenant=1).caller("acme")
    form = {"image": IMAGE, "request": REQUEST}
    with raw(acme, "POST /v1/images", "Content-Type: multipart/form-data; boundary=x", "Content-Length: 100") as slow:
        slow.sendall(b"--x\r\n")
        refused = next(
            answer for _ in range(1000) if (answer := acme.ask("POST", "/v1/images", files=form)).status_code != 202
        )
        assert problem(refused) == (429, "rate_limited")
        assert acme.submit().status_code == 202
    # when the slow one has gone, the place is free
    assert any(acme.ask("POST", "/v1/images", files=form).status_code == 202 for _ in range(1000))


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * MANY,
        b"GET /" + b"y" * MANY,
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 10_000,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 10 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST /v1/images HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nX : y\r\n\r\n",
    ],
)
def test_a_head_that_is_none(head: bytes, gateway: Gateway, acme: Caller) -> None:
    parts = urlsplit(gateway.url)
    with socket.create_connection((str(parts.hostname), int(parts.port or 0)), timeout=60) as connection:
        try:
            connection.sendall(head)
            assert connection.recv(65_536).startswith(b"HTTP/1.1 400 ")
        except ConnectionError:
            pass  # it was cut off while it sent
    assert acme.submit().status_code == 202


@pytest.mark.parametrize(
    "path",
    [
        *("/v1/images/%0d%0aX:%20y", "/v1/images/..%2f..%2fetc", "/v1/images/a%00b", "/v1/images/%ff", "/v1/images/"),
        *("/v1/images/%F0%9F%90%88", "/v1/images/" + "a" * 129, "//v1/images", "/v1/images/a/b", "/V1/images"),
    ],
)
def test_tricks_in_a_path(path: str, acme: Caller) -> None:
    for method in ("GET", "DELETE"):
        with raw(acme, f"{method} {path}", "Connection: close") as connection:
            answer = b"".join(iter(lambda: connection.recv(65_536), b""))
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 404 ")
        assert json.loads(body)["code"] == "not_found"
        assert b"\r\nX:" not in head


def test_who_asks_too_often_is_told_when_to_come_back(start: Callable[..., Gateway]) -> None:
    gateway = start(requests_per_s=0.01, burst=3)
    acme, umbra = gateway.caller("acme"), gateway.caller("umbra")
    statuses = [acme.ask("GET", "/v1/images").status_code for _ in range(4)]
    assert statuses == [200, 200, 200, 429]
    refused = acme.submit()
    assert problem(refused) == (429, "rate_limited")
    assert 90 < int(refused.headers["retry-after"]) <= 100
    assert umbra.submit().status_code == 202


def test_waits_of_all_have_an_end(start: Callable[..., Gateway]) -> None:
    gateway = start(max_waits=1, heartbeat_s=0.05)
    acme, umbra = gateway.caller("acme"), gateway.caller("umbra")
    umbra.submit(request_id="cat")
    with closing(acme.ask("GET", "/v1/events", stream=True)):
        refused = umbra.ask("GET", "/v1/images/cat?wait=1")
        assert problem(refused) == (503, "overloaded")
        assert refused.headers["retry-after"] == "1"
        assert umbra.ask("GET", "/v1/images/cat").status_code == 202


def test_logs_show_neither_prompts_nor_urls_nor_keys(acme: Caller, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="m3agiqa")
    caplog.set_level(logging.INFO)
    secret = {"prompt": "canary-1", "image_url": "https://canary-2/x?canary-3=4", "metadata": {"canary-4": "canary-5"}}
    acme.submit(request_id="cat", **secret)
    acme.submit(**{**secret, "image_url": "ftp://canary-2"})
    acme.submit(**{**secret, "canary-6": 1})
    acme.ask("POST", "/v1/images", data=b'{"canary-7"', headers={**JSON, "Idempotency-Key": "canary-8"})
    acme.ask("GET", "/v1/images/canary-9?canary-10=1")
    acme.ask("GET", "/v1/canary-11", headers={"X-Canary": "canary-12"})
    assert any("for acme: 202" in message for message in caplog.messages)
    assert "canary" not in caplog.text
    assert str(acme.key) not in caplog.text


def test_a_defect_shows_nothing(
    acme: Caller, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("can" + "ary")

    monkeypatch.setattr("m3agiqa.client.sync.Client.submit_many", fail)
    answer = acme.submit()
    assert problem(answer) == (500, "internal_error")
    assert "canary" not in answer.text + caplog.text
    assert "RuntimeError raised" in caplog.text
