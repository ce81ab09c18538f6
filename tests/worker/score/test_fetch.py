from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from m3agiqa.errors import FetchForbidden, FetchRefused, FetchUnavailable, ImageTooLarge
from tests.support import PATIENCE_S
from tests.worker.conftest import Tripwire, trusting
from worker.score.fetch import CHUNK_BYTES, LARGE_AT_A_TIME, MAX_REDIRECTS, MAX_RETRY_AFTER_S, Fetcher
from worker.settings import Settings


def test_a_public_image_is_fetched(serve: Any, internet: Callable[[int], None]) -> None:
    server = serve(lambda request: request.reply(200, b"picture"))
    internet(server.server_port)
    assert Fetcher(Settings()).fetch("http://images.example/a%20b.png?size=1&s=%2F") == b"picture"
    [request] = server.received
    assert request.path == "/a%20b.png?size=1&s=%2F"
    assert request.headers["host"] == "images.example"
    assert request.headers["user-agent"].startswith("m3agiqa/")


# --- redirects ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.1:{port}/",
        "//127.0.0.1:{port}/",
        "http://169.254.169.254/",
        "http://user@127.0.0.1:{port}/",
        "file:///etc/passwd",
        "s3://bucket/key",
        "http://[::1",
        "http://[::ffff:127.0.0.1]:{port}/",
    ],
)
def test_a_redirect_is_checked_like_any_url(location: str, serve: Any, tripwire: Tripwire) -> None:
    server = serve(lambda request: request.reply(307, location=location.format(port=tripwire.port)))
    with pytest.raises(FetchForbidden):
        trusting(server, fetch_ports=(80, tripwire.port), fetch_s3_buckets=("bucket",)).fetch(server.url)
    assert not tripwire.touched()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_few_redirects_are_followed_without_cookies(status: int, serve: Any) -> None:
    def answer(request: Any) -> None:
        hop = int(request.path[1:])
        if hop == MAX_REDIRECTS:
            request.reply(200, b"picture")
        else:
            request.reply(status, location=str(hop + 1), set_cookie="who=you; Path=/")

    server = serve(answer)
    assert trusting(server).fetch(f"{server.url}/0") == b"picture"
    assert len(server.received) == 1 + MAX_REDIRECTS == 4
    assert not any("cookie" in request.headers for request in server.received)


@pytest.mark.parametrize(
    ("location", "path"),
    [
        (b"/gr\xc3\xb6\xc3\x9fe.png", "/gr%C3%B6%C3%9Fe.png"),
        (b"/gr\xf6\xdfe.png?a=b&c=%2F#d", "/gr%F6%DFe.png?a=b&c=%2F"),
        (b"/gr%C3%B6%C3%9Fe.png", "/gr%C3%B6%C3%9Fe.png"),
        (b"/a b.png", "/a%20b.png"),
        (b"/caf\xc3\xa9 au lait/a%20b.png?x=1 2", "/caf%C3%A9%20au%20lait/a%20b.png?x=1%202"),
        (b"b.png#part", "/b.png"),
        (b"./c/../b.png", "/b.png"),
        (b"?only=query", "/?only=query"),
        (b"  /b.png\t", "/b.png"),
        (b"/\xe7\x8c\xab?q=\xe7\x8c\xab", "/%E7%8C%AB?q=%E7%8C%AB"),
    ],
)
def test_a_redirect_leads_where_its_server_means(location: bytes, path: str, serve: Any) -> None:
    def answer(request: Any) -> None:
        if request.path == "/":
            request.reply(302, location=location.decode("latin-1"))
        else:
            request.reply(200, b"picture")

    server = serve(answer)
    assert trusting(server).fetch(f"{server.url}/") == b"picture"
    assert server.received[-1].path == path


def test_redirects_without_end_are_refused(serve: Any) -> None:
    server = serve(lambda request: request.reply(302, location="/again?token=SECRET"))
    with pytest.raises(FetchRefused, match="redirects") as failure:
        trusting(server).fetch(server.url)
    assert "SECRET" not in str(failure.value)
    assert len(server.received) == 1 + MAX_REDIRECTS == 4


def test_the_body_of_a_redirect_is_not_read(serve: Any) -> None:
    def answer(request: Any) -> None:
        if request.path == "/end":
            request.reply(200, b"picture")
        else:
            request.reply(302, location="/end", content_length=str(10**12))
            request.drip(b"x")

    server = serve(answer)
    assert trusting(server, fetch_timeout_s=30).fetch(server.url) == b"picture"


# --- answers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("header", "seconds"), [("120", 120), ("86400", MAX_RETRY_AFTER_S), ("soon", None)])
@pytest.mark.parametrize("status", [429, 503])
def test_the_time_a_server_asks_for_is_passed_on(status: int, header: str, seconds: float | None, serve: Any) -> None:
    server = serve(lambda request: request.reply(status, retry_after=header))
    with pytest.raises(FetchUnavailable) as failure:
        trusting(server).fetch(server.url)
    assert failure.value.retry_after_s == seconds


@pytest.mark.parametrize("status", [204, 206, 300, 304, 400, 401, 403, 404, 410, 416, 451])
def test_what_a_server_will_not_serve_is_refused_for_good(status: int, serve: Any) -> None:
    server = serve(lambda request: request.reply(status))
    with pytest.raises(FetchRefused, match=f"127.0.0.1 answered {status}"):
        trusting(server).fetch(f"{server.url}/private/path?signature=SECRET")


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 599])
def test_what_a_server_cannot_serve_now_may_be_tried_again(status: int, serve: Any) -> None:
    server = serve(lambda request: request.reply(status))
    with pytest.raises(FetchUnavailable, match=f"127.0.0.1 answered {status}"):
        trusting(server).fetch(f"{server.url}/private/path?signature=SECRET")


def test_a_closed_port_may_be_tried_again(tripwire: Tripwire) -> None:
    tripwire.socket.close()
    netloc = f"127.0.0.1:{tripwire.port}"
    with pytest.raises(FetchUnavailable):
        Fetcher(Settings(fetch_allow_hosts=(netloc,))).fetch(f"http://{netloc}/")


def test_a_body_that_breaks_off_may_be_tried_again(serve: Any) -> None:
    server = serve(lambda request: request.reply(200, b"half", content_length="8"))
    with pytest.raises(FetchUnavailable):
        trusting(server).fetch(server.url)


def test_gibberish_instead_of_http_may_be_tried_again(serve: Any) -> None:
    server = serve(lambda request: request.wfile.write(b"\x00\x01 no http at all\r\n\r\n"))
    with pytest.raises(FetchUnavailable):
        trusting(server).fetch(server.url)


def test_a_compressed_answer_is_refused(serve: Any) -> None:
    server = serve(lambda request: request.reply(200, b"bomb", content_encoding="gzip"))
    with pytest.raises(FetchRefused, match="compressed"):
        trusting(server).fetch(server.url)
    assert server.received[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("coding", ["", "identity", "Identity", "aws-chunked", "aws-chunked, identity", " , "])
def test_a_coding_that_changes_nothing_is_none(coding: str, serve: Any) -> None:
    server = serve(lambda request: request.reply(200, b"picture", content_encoding=coding))
    assert trusting(server).fetch(server.url) == b"picture"


@pytest.mark.parametrize("coding", ["aws-chunked,gzip", "identity, br", "x"])
def test_a_coding_among_others_is_refused(coding: str, serve: Any) -> None:
    server = serve(lambda request: request.reply(200, b"bomb", content_encoding=coding))
    with pytest.raises(FetchRefused, match="compressed"):
        trusting(server).fetch(server.url)


def announced(*interim: bytes) -> Callable[[Any], None]:
    """Answers with an image after interim responses."""

    def answer(request: Any) -> None:
        request.wfile.write(b"".join(b"HTTP/1.1 %s\r\nLink: </a>; rel=preload\r\n\r\n" % status for status in interim))
        request.reply(200, b"picture")

    return answer


@pytest.mark.parametrize(
    "interim", [[b"103 Early Hints"], [b"103 Early Hints"] * 3, [b"100 Continue", b"102 Processing"], [b"199 ?"]]
)
def test_what_announces_an_answer_is_none(interim: list[bytes], serve: Any) -> None:
    server = serve(announced(*interim))
    assert trusting(server).fetch(server.url) == b"picture"


def test_a_protocol_that_nobody_asked_for_is_refused(serve: Any) -> None:
    server = serve(announced(b"101 Switching Protocols"))
    with pytest.raises(FetchRefused, match="answered 101"):
        trusting(server).fetch(server.url)


def test_announcements_without_end_take_no_longer_than_anything(serve: Any) -> None:
    server = serve(lambda request: request.drip(b"HTTP/1.1 103 Early Hints\r\n\r\n"))
    with pytest.raises(FetchUnavailable, match=r"took more than 0\.5 s"):
        trusting(server, fetch_timeout_s=0.5).fetch(server.url)


@pytest.mark.parametrize("status", [b"102 Processing", b"103 Early Hints"])
def test_announcements_without_end_are_not_read_on_and_on(status: bytes, serve: Any) -> None:
    server = serve(announced(*[status] * 1000))
    with pytest.raises(FetchUnavailable, match="broke off"):
        trusting(server, fetch_timeout_s=PATIENCE_S, fetch_first_byte_s=PATIENCE_S).fetch(server.url)


def sized(*lengths: str, body: bytes = b"picture", coding: str = "") -> Callable[[Any], None]:
    """Answers with a body, and lengths and a transfer coding for it that may be wrong."""

    def answer(request: Any) -> None:
        head = ["HTTP/1.1 200 OK", *(f"Content-Length: {length}" for length in lengths)]
        head += [f"Transfer-Encoding: {coding}"] if coding else []
        request.wfile.write("\r\n".join([*head, "", ""]).encode() + body)

    return answer


@pytest.mark.parametrize("lengths", [(), ("",), ("7",), ("007",), ("7", "7"), ("7, 7",), ("7,7", " 7 ")])
def test_a_length_may_be_said_more_than_once(lengths: tuple[str, ...], serve: Any) -> None:
    server = serve(sized(*lengths))
    assert trusting(server).fetch(server.url) == b"picture"


@pytest.mark.parametrize(
    "lengths", [("7", "8"), ("7, 8",), ("7", "x"), ("-7",), ("+7",), ("7.0",), ("0x7",), ("1_0",), ("7 7",), ("\xb2",)]
)
def test_a_server_that_contradicts_itself_about_the_length_is_refused(lengths: tuple[str, ...], serve: Any) -> None:
    server = serve(sized(*lengths))
    with pytest.raises(FetchRefused, match=r"127\.0\.0\.1 contradicts itself"):
        trusting(server).fetch(server.url)


@pytest.mark.parametrize("digits", [12, 19, 25, 5000])
def test_a_length_as_large_as_can_be_written_is_too_large(digits: int, serve: Any) -> None:
    server = serve(sized("9" * digits))
    with pytest.raises(ImageTooLarge):
        trusting(server).fetch(server.url)


def test_of_a_body_that_is_longer_than_said_the_rest_is_not_its_own(serve: Any) -> None:
    server = serve(sized("7", body=b"picture and more"))
    assert trusting(server).fetch(server.url) == b"picture"


@pytest.mark.parametrize("lengths", [("3",), ("999999999999",), ("3", "4"), ("-1",)])
@pytest.mark.parametrize("coding", ["chunked", "Chunked"])
def test_chunks_count_for_more_than_a_length(coding: str, lengths: tuple[str, ...], serve: Any) -> None:
    server = serve(sized(*lengths, body=b"7\r\npicture\r\n0\r\n\r\n", coding=coding))
    assert trusting(server).fetch(server.url) == b"picture"


def test_a_body_compressed_for_the_way_is_refused(serve: Any) -> None:
    server = serve(sized(body=b"7\r\npicture\r\n0\r\n\r\n", coding="gzip, chunked"))
    with pytest.raises(FetchRefused, match="compressed"):
        trusting(server).fetch(server.url)


def test_what_is_not_there_may_be_tried_again_if_that_is_wanted(serve: Any) -> None:
    server = serve(lambda request: request.reply(int(request.path[1:])))
    fetcher = trusting(server, fetch_retry_missing=True)
    with pytest.raises(FetchUnavailable, match=r"127\.0\.0\.1 answered 404"):
        fetcher.fetch(f"{server.url}/404")
    for status in (403, 410):
        with pytest.raises(FetchRefused):
            fetcher.fetch(f"{server.url}/{status}")


def test_a_fetch_says_the_name_that_was_set(serve: Any) -> None:
    server = serve(lambda request: request.reply(200, b"picture"))
    trusting(server, user_agent="Gallery/2 (+https://ours.example)").fetch(server.url)
    assert server.received[0].headers["user-agent"] == "Gallery/2 (+https://ours.example)"


def test_no_failure_shows_path_query_or_credentials(serve: Any, tripwire: Tripwire) -> None:
    server = serve(lambda request: request.reply(404))
    slow = f"127.0.0.1:{tripwire.port}"
    fetcher = Fetcher(Settings(fetch_allow_hosts=(server.netloc, slow), fetch_timeout_s=0.3, fetch_ports=(80,)))
    for start in (
        server.url,
        f"http://{slow}",
        "http://10.0.0.1",
        "http://nowhere.invalid",
        "http://x:SECRET@y.example",
        "http://127.0.0.1:99999",
        "s3://bucket",
        "ftp://y.example",
    ):
        with pytest.raises((FetchForbidden, FetchRefused, FetchUnavailable)) as failure:
            fetcher.fetch(f"{start}/SECRET/path?signature=SECRET#SECRET")
        assert "SECRET" not in "".join(traceback.format_exception_only(failure.value))
        assert failure.value.__suppress_context__ or failure.value.__context__ is None


def test_proxies_of_the_environment_are_not_used(
    serve: Any, tripwire: Tripwire, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{tripwire.port}")
    server = serve(lambda request: request.reply(200, b"picture"))
    assert trusting(server).fetch(server.url) == b"picture"
    assert not tripwire.touched()


# --- size --------------------------------------------------------------------------------------------------------


def test_a_image_of_exactly_the_limit_passes_and_one_byte_more_does_not(serve: Any) -> None:
    server = serve(lambda request: request.reply(200, b"x" * int(request.path[1:])))
    fetcher = trusting(server, fetch_max_bytes=100_000)
    assert len(fetcher.fetch(f"{server.url}/100000")) == 100_000
    with pytest.raises(ImageTooLarge):
        fetcher.fetch(f"{server.url}/100001")


def test_an_announced_size_over_the_limit_is_enough(serve: Any) -> None:
    # Given a server that announces much and then sends nothing
    def answer(request: Any) -> None:
        request.reply(200, content_length="1000001")
        request.server.over.wait(60)

    server = serve(answer)
    with pytest.raises(ImageTooLarge, match="1000001"):
        trusting(server, fetch_max_bytes=1_000_000, fetch_timeout_s=60).fetch(server.url)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_without_end_is_cut_off_at_the_limit(chunked: bool, serve: Any) -> None:
    def answer(request: Any) -> None:
        request.protocol_version = "HTTP/1.1"
        request.send_response(200)
        if chunked:
            request.send_header("transfer-encoding", "chunked")
        request.end_headers()
        while not request.server.over.is_set():
            request.wfile.write(b"4000\r\n" + b"x" * 0x4000 + b"\r\n" if chunked else b"x" * 0x4000)

    server = serve(answer)
    with pytest.raises(ImageTooLarge):
        trusting(server, fetch_max_bytes=1_000_000, fetch_timeout_s=60).fetch(server.url)


def test_large_bodies_that_come_slowly_keep_no_other_large_body(serve: Any) -> None:
    # Given servers that stop in the middle of bodies longer than a chunk, as many as may read on at a time
    size = 3 * CHUNK_BYTES
    stuck = threading.Semaphore(0)

    def answer(request: Any) -> None:
        if request.path == "/sound":
            request.reply(200, bytes(size))
            return
        request.reply(200, bytes(CHUNK_BYTES + 1), content_length=str(size))
        stuck.release()
        request.server.over.wait(60)

    server = serve(answer)
    fetcher = trusting(server, fetch_timeout_s=PATIENCE_S)
    with ThreadPoolExecutor() as threads:
        slow = [threads.submit(fetcher.fetch, f"{server.url}/slow") for _ in range(LARGE_AT_A_TIME)]
        for _ in slow:
            assert stuck.acquire(timeout=PATIENCE_S)
        # when another large body comes, then it is there while they still wait
        assert len(fetcher.fetch(f"{server.url}/sound")) == size
        assert not any(fetch.done() for fetch in slow)
        server.over.set()
        assert all(isinstance(fetch.exception(PATIENCE_S), FetchUnavailable) for fetch in slow)
