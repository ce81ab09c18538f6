"""What each route answers, over a real server and a real Redis."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from redis import Redis

from m3agiqa.client import Client
from m3agiqa.contract import Verdict
from m3agiqa.gateway import keys as api_keys
from m3agiqa.queue import inbox, keys
from m3agiqa.queue.ledger import Ledger
from tests.m3agiqa.gateway.conftest import Caller, Gateway, serving
from tests.support import png

Score = Callable[..., None]
IMAGE = "https://host/a.png"


def waiting(redis: Redis) -> list[str]:
    """Names of the requests in the inbox, the first first."""
    return [inbox.parse(text, 3).name for text in reversed(redis.lrange(keys.inbox(3), 0, -1))]


def problem(answer: object) -> tuple[int, str]:
    """Status and code of a problem, of which every field is there."""
    assert answer.headers["content-type"] == "application/problem+json"  # type: ignore[attr-defined]
    told = answer.json()  # type: ignore[attr-defined]
    assert set(told) == {"type", "title", "status", "code", "detail"}
    assert told["status"] == answer.status_code  # type: ignore[attr-defined]
    return told["status"], told["code"]


def test_an_image_is_submitted_and_its_verdict_fetched(acme: Caller, score: Score, redis: Redis) -> None:
    # given a request by URL
    answer = acme.submit(prompt="a cat", metadata={"user": 7}, batch_id="b1")
    assert answer.status_code == 202
    request_id = answer.json()["request_id"]
    assert answer.headers["location"] == f"/v1/images/{request_id}"
    assert waiting(redis) == [f"acme/{request_id}"]
    # when nobody has scored it, then its status is told, and when to ask again
    pending = acme.ask("GET", answer.headers["location"])
    assert (pending.status_code, pending.headers["retry-after"]) == (202, "1")
    assert pending.json() | {"expected_s": None} == {
        "request_id": request_id,
        "state": "submitted",
        "batch_id": "b1",
        "position": 1,
        "expected_s": None,
    }
    # and once somebody has, the verdict
    score(f"acme/{request_id}")
    told = acme.ask("GET", f"/v1/images/{request_id}")
    assert (told.status_code, told.headers["cache-control"]) == (200, "no-store")
    verdict = Verdict.model_validate(told.json())
    assert (verdict.request_id, verdict.tenant, verdict.metadata) == (request_id, "acme", {"user": 7})


def test_a_long_poll_ends_with_the_verdict(acme: Caller, score: Score, gateway: Gateway) -> None:
    acme.submit(request_id="cat")
    timer = threading.Timer(0.2, score, ["acme/cat"])
    timer.start()
    assert acme.ask("GET", "/v1/images/cat?wait=30").json()["request_id"] == "cat"
    timer.join()


def test_a_long_poll_ends_without_a_verdict(acme: Caller) -> None:
    acme.submit(request_id="cat")
    assert acme.ask("GET", "/v1/images/cat?wait=0.1").status_code == 202


def test_what_is_not_there(acme: Caller) -> None:
    assert problem(acme.ask("GET", "/v1/images/none")) == (404, "not_found")
    assert problem(acme.ask("DELETE", "/v1/images/none")) == (404, "not_found")
    assert problem(acme.ask("GET", "/v1/nothing")) == (404, "not_found")
    wrong = acme.ask("PUT", "/v1/images")
    assert problem(wrong) == (405, "method_not_allowed")
    assert set(wrong.headers["allow"].split(", ")) == {"GET", "HEAD", "POST"}


def test_a_verdict_that_is_kept_no_more_is_not_there(acme: Caller, score: Score, redis: Redis) -> None:
    acme.submit(request_id="cat")
    score("acme/cat")
    redis.delete(keys.result("acme/cat"))
    assert problem(acme.ask("GET", "/v1/images/cat")) == (404, "not_found")


def test_bytes_are_uploaded(acme: Caller, redis: Redis, ledger: Ledger) -> None:
    fields = json.dumps({"prompt": "a cat", "request_id": "cat", "priority": 3})
    files = {"image": ("cat.png", png(1)), "request": (None, fields, "application/json")}
    answer = acme.ask("POST", "/v1/images", files=files)
    assert (answer.status_code, answer.json()) == (202, {"request_id": "cat"})
    ledger.admit(3)
    with ledger.claim("acme/cat") as claim:
        assert claim.request.prompt == "a cat"
        digest = claim.request.image_url.removeprefix("inline:")
    assert redis.hexists(keys.image("acme/cat"), f"{digest}:0")


def test_a_data_url_is_an_upload(acme: Caller, redis: Redis) -> None:
    assert acme.submit(image_url="data:image/png;base64,iVBORw0KGgo=", request_id="cat").status_code == 202
    assert redis.exists(keys.image("acme/cat"))


def test_the_same_idempotency_key_gives_the_same_answer(acme: Caller, umbra: Caller, score: Score) -> None:
    def submit(caller: Caller, prompt: str) -> object:
        body = {"image_url": IMAGE, "prompt": prompt}
        return caller.ask("POST", "/v1/images", json=body, headers={"Idempotency-Key": "order 1".replace(" ", "-")})

    first = submit(acme, "a cat")
    again = submit(acme, "a cat")
    other = submit(acme, "a dog")
    theirs = submit(umbra, "a dog")
    # then another image under the key is refused at once, and no worker had to take the first one in
    assert first.json() == again.json()  # type: ignore[attr-defined]
    assert problem(other) == (409, "request_conflict")
    # and a key is one of its tenant
    assert theirs.status_code == 202  # type: ignore[attr-defined]
    score(f"acme/{first.json()['request_id']}")  # type: ignore[attr-defined]
    assert submit(acme, "a cat").json() == first.json()  # type: ignore[attr-defined]


@pytest.mark.parametrize("key", ["", "x" * 256, "a b", "a\tb", "ä".encode().decode("latin-1")])
def test_no_idempotency_key(key: str, acme: Caller) -> None:
    body = {"image_url": IMAGE, "prompt": ""}
    answer = acme.ask("POST", "/v1/images", json=body, headers={"Idempotency-Key": key.encode("latin-1")})
    assert problem(answer) == (422, "request_invalid")


def test_a_request_is_taken_back(acme: Caller, score: Score) -> None:
    acme.submit(request_id="cat")
    acme.submit(request_id="dog")
    score("acme/dog")
    assert acme.ask("DELETE", "/v1/images/cat").json() == {"request_id": "cat", "cancelled": True}
    assert acme.ask("DELETE", "/v1/images/dog").json() == {"request_id": "dog", "cancelled": False}
    assert acme.ask("GET", "/v1/images/cat").json()["error"]["code"] == "cancelled"


def test_a_request_is_erased(acme: Caller, redis: Redis) -> None:
    acme.submit(request_id="cat", prompt="canary")
    told = acme.ask("DELETE", "/v1/images/cat?erase=true").json()
    assert (told["request_id"], told["request"]) == ("cat", True)
    assert problem(acme.ask("GET", "/v1/images/cat")) == (404, "not_found")
    assert not redis.exists(keys.request("acme/cat"))


def test_pages_hold_every_verdict_of_the_tenant(acme: Caller, umbra: Caller, score: Score, queue: Client) -> None:
    # given verdicts of two tenants and of nobody, more than a page
    ids = {f"cat-{number}" for number in range(30)}
    for caller in (acme, umbra):
        for request_id in ids:
            caller.submit(request_id=request_id, batch_id="even" if request_id[-1] in "02468" else None)
    queue.submit(image_url=IMAGE, prompt="", request_id="nobodys")
    score("nobodys", *(f"{tenant}/{request_id}" for tenant in ("acme", "umbra") for request_id in ids))
    # then the pages of one are its own
    assert {told["request_id"] for told in pages(acme, "limit=7")} == ids
    assert {told["tenant"] for told in pages(acme, "limit=7")} == {"acme"}
    assert len({told["request_id"] for told in pages(acme, "limit=7&batch_id=even")}) == 15


def pages(caller: Caller, query: str) -> list[dict[str, object]]:
    found, cursor = [], "0"
    while cursor is not None:
        page = caller.ask("GET", f"/v1/images?{query}&cursor={cursor}").json()
        found += page["verdicts"]
        cursor = page["cursor"]
    return found


@pytest.mark.parametrize(
    "query",
    [
        *("cursor=x", "cursor=-1", f"cursor={2**64}", "cursor=0&cursor=0", "limit=0", "limit=501", "limit=1.5"),
        *("limit=nan", "limit=", "batch_id=", "batch_id=a/b", "wait=1", "none=such"),
    ],
)
def test_wrong_parameters_of_a_page(query: str, acme: Caller) -> None:
    assert problem(acme.ask("GET", f"/v1/images?{query}")) == (422, "request_invalid")


@pytest.mark.parametrize("wait", ["-1", "61", "1e9", "nan", "inf", "1_0", "", "%31%20", "x"])
def test_wrong_waits(wait: str, acme: Caller) -> None:
    acme.submit(request_id="cat")
    assert problem(acme.ask("GET", f"/v1/images/cat?wait={wait}")) == (422, "request_invalid")


def test_a_full_queue_says_when_to_come_back(start: Callable[..., Gateway]) -> None:
    acme = start(max_queued=1).caller("acme")
    assert acme.submit().status_code == 202
    full = acme.submit()
    assert problem(full) == (503, "queue_full")
    assert int(full.headers["retry-after"]) >= 1


def test_a_queue_that_is_away(unused_port: int, tmp_path: Path) -> None:
    # given a gateway without its Redis
    file = tmp_path / "keys.json"
    key = api_keys.new(file, "acme")
    with serving(f"redis://127.0.0.1:{unused_port}/0", file) as url, requests.Session() as session:
        acme = Caller(url, key, session)
        # then it lives, is not ready, and says so without naming hosts
        assert acme.ask("GET", "/healthz").status_code == 200
        assert acme.ask("GET", "/readyz").status_code == 503
        for answer in (acme.submit(), acme.ask("GET", "/v1/images/cat"), acme.ask("GET", "/v1/images")):
            assert problem(answer) == (503, "queue_unavailable")
            assert answer.headers["retry-after"] == "1"
            assert str(unused_port) not in answer.text
        # and a stream that has begun ends with a problem
        told = acme.ask("GET", "/v1/events").text
        assert told.startswith("event: error\ndata: {")
        assert '"code": "queue_unavailable"' in told


def test_health(gateway: Gateway) -> None:
    nobody = gateway.caller(None)
    assert nobody.ask("GET", "/healthz").json() == {"status": "ok"}
    assert nobody.ask("GET", "/readyz").json() == {"status": "ok"}
