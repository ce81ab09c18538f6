"""Verdicts as server-sent events."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
import requests
from redis import Redis

from m3agiqa.client import Client
from m3agiqa.queue import keys
from tests.m3agiqa.gateway.conftest import Caller, Gateway
from tests.m3agiqa.gateway.test_app import problem

Score = Callable[..., None]


class Stream:
    """A stream that has begun."""

    def __init__(self, caller: Caller, query: str) -> None:
        self.answer: requests.Response = caller.ask("GET", f"/v1/events{query}", stream=True)
        assert self.answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        self.lines: Iterator[str] = self.answer.iter_lines(chunk_size=1, decode_unicode=True)
        assert next(self.lines) == ": alive"

    def event(self) -> dict[str, str]:
        """The next event."""
        found: dict[str, str] = {}
        for line in self.lines:
            name, colon, value = line.partition(": ")
            if name and colon:
                found[name] = value
            elif not line and found:
                return found
        raise AssertionError("the stream has ended")

    def request_id(self) -> str:
        told = self.event()
        assert told["event"] == "verdict"
        assert json.loads(told["data"])["request_id"] == told["id"]
        return told["id"]

    def close(self) -> None:
        self.answer.close()


def test_a_stream_of_ids_ends_with_the_last_one(acme: Caller, score: Score) -> None:
    # given a verdict that is there, and one that is not
    for request_id in ("cat", "dog"):
        acme.submit(request_id=request_id)
    score("acme/cat")
    with closing(Stream(acme, "?ids=cat,dog")) as stream:
        assert stream.request_id() == "cat"
        score("acme/dog")
        assert stream.request_id() == "dog"
        assert stream.event() == {"event": "end", "id": "end", "data": "{}"}
    # then who comes back for more is sent away
    assert acme.ask("GET", "/v1/events?ids=cat,dog", headers={"Last-Event-ID": "end"}).status_code == 204


def test_a_stream_of_a_tenant_tells_what_comes_to_it(
    acme: Caller, umbra: Caller, score: Score, queue: Client, redis: Redis
) -> None:
    queue.submit(image_url="https://host/a.png", prompt="", request_id="nobodys")
    for caller in (acme, umbra):
        for request_id in ("before", "cat"):
            caller.submit(request_id=request_id, batch_id="b")
        caller.submit(request_id="dog", batch_id="c")
    score("acme/before")
    with closing(Stream(acme, "")) as all_of_it, closing(Stream(acme, "?batch_id=c")) as batch:
        # when verdicts come, and a stranger announces what is none
        for name in ("acme/none", "acme/a\nevent: x", "*", "acme/" + "x" * 999):
            redis.publish(keys.done(name), "")
        score("umbra/cat", "nobodys", "acme/cat", "umbra/dog", "acme/dog")
        # then each stream has its own
        assert [all_of_it.request_id() for _ in range(2)] == ["cat", "dog"]
        assert batch.request_id() == "dog"


def test_a_stream_gives_its_place_back(start: Callable[..., Gateway]) -> None:
    gateway = start(heartbeat_s=0.05, waits_per_tenant=1)
    acme = gateway.caller("acme")
    with closing(Stream(acme, "")):
        # given that a tenant has one open, then another is too many, though not another tenant's
        assert problem(acme.ask("GET", "/v1/events")) == (429, "rate_limited")
        with closing(Stream(gateway.caller("umbra"), "")):
            pass
    # when it is closed, the place is free again
    assert eventually_begins(acme)


def eventually_begins(caller: Caller) -> bool:
    for _ in range(1000):
        answer = caller.ask("GET", "/v1/events", stream=True)
        answer.close()
        if answer.status_code == 200:
            return True
    return False


def test_a_stream_ends_after_its_time(start: Callable[..., Gateway]) -> None:
    acme = start(max_stream_s=0.2, heartbeat_s=0.05).caller("acme")
    told = acme.ask("GET", "/v1/events").text
    assert set(told.split("\n\n")) == {": alive", ""}
    acme.submit(request_id="cat")
    assert set(acme.ask("GET", "/v1/events?ids=cat").text.split("\n\n")) == {": alive", ""}


def test_a_stream_says_that_verdicts_may_be_missing(acme: Caller, redis: Redis) -> None:
    with closing(Stream(acme, "")) as stream:
        # when Redis closes every connection
        for client in redis.client_list():
            if "psubscribe" in client["cmd"]:
                redis.client_kill_filter(_id=client["id"])
        told = stream.event()
        assert (told["event"], json.loads(told["data"])["code"]) == ("error", "queue_unavailable")


@pytest.mark.parametrize("query", ["?ids=", "?ids=a,,b", "?ids=a/b", "?ids=a&batch_id=b", "?ids=a&ids=b", "?id=a"])
def test_wrong_streams(query: str, acme: Caller) -> None:
    assert problem(acme.ask("GET", f"/v1/events{query}")) == (422, "request_invalid")
    assert problem(acme.ask("GET", "/v1/events?ids=" + ",".join(f"r{number}" for number in range(501))))[0] == 422
