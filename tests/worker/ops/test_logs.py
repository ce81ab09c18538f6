from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from typing import Any

import pytest

from m3agiqa.contract import Failure
from m3agiqa.errors import FetchUnavailable
from producers import Client
from tests.support import Web, Worker
from worker.ops import steps
from worker.ops.logs import JsonLines, scrubbed


def line(*args: Any, name: str = "worker.x", error: BaseException | None = None, **extra: object) -> dict[str, Any]:
    """What a logger writes."""
    caught = None if error is None else (type(error), error, error.__traceback__)
    record = logging.getLogger(name).makeRecord(
        name, logging.INFO, "f.py", 1, args[0], args[1:], caught, extra=extra or None
    )
    told = JsonLines().format(record)
    assert told.isascii()
    assert "\n" not in told
    found: dict[str, Any] = json.loads(told)
    return found


def test_a_line_says_what_its_thread_works_at() -> None:
    # given a thread that delivers a verdict
    steps.begin("r1:callback")
    try:
        assert line("x %s", "1")["stage"] == "deliver"
        # when it is at a stage, and fails
        with steps.step("fetch"):
            steps.failed(Failure(code="delivery_gone", message="", retryable=False))
            told = line("two\nlines \x1b[31m", duration_s=0.5)
    finally:
        steps.end()
    # then the line says so, and a line after it does not
    assert told.pop("time")
    assert told == {
        "request_id": "r1",
        "stage": "fetch",
        "code": "delivery_gone",
        "duration_s": 0.5,
        "level": "INFO",
        "logger": "worker.x",
        "message": "two\nlines \x1b[31m",
    }
    assert set(line("x")) == {"time", "level", "logger", "message"}


def test_a_line_of_celerys_main_thread_names_the_request() -> None:
    told = line("Task %(name)s[%(id)s] received", {"id": "r2:s3", "name": "m3agiqa.deliver"}, name="celery.worker.x")
    assert (told["request_id"], told["stage"]) == ("r2", "deliver")
    assert "request_id" not in line("%(id)s", {"id": "r2"}, name="other")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("no http://u:p@host:80/a.png?token=x y", "no http://host:80/a.png?... y"),
        ("'https://host/a#frag'", "'https://host/a?...'"),
        ("s3://b/k, redis://:pw@host/0", "s3://b/k, redis://host/0"),
        ("with url: /a.png?X-Amz-Signature=abc (x)", "with url: /a.png?... (x)"),
        ("is it? yes", "is it? yes"),
        ("http://host/a@b/c?d@e", "http://host/a@b/c?..."),
    ],
)
def test_urls_lose_user_and_query(text: str, shown: str) -> None:
    assert scrubbed(text) == shown


def test_only_our_own_errors_show_their_words() -> None:
    def caught(error: Exception) -> dict[str, Any]:
        try:
            raise error
        except type(error):
            return line("x", error=sys.exc_info()[1])

    ours = caught(FetchUnavailable("host answered 503"))
    assert ours["error"] == "FetchUnavailable: host answered 503"
    assert ours["traceback"][-1].startswith("tests/worker/ops/test_logs.py:")
    theirs = caught(ValueError("a secret prompt"))
    assert theirs["error"] == "ValueError"
    assert "secret" not in json.dumps(theirs)


def test_a_worker_writes_nothing_but_json(client: Client, web: Web, worker_process: Callable[..., Worker]) -> None:
    # given a worker that logs JSON, and an image that is not there
    web.answers["missing.png?token=secret"] = [404]
    worker = worker_process("score", log_format="json")
    request_id = client.submit(image_url=web.url("missing.png?token=secret"), prompt="a lighthouse")
    assert client.result(request_id, timeout=60).error is not None
    # when it has answered, and is stopped
    assert worker.terminate() == 0
    lines = [json.loads(text) for text in worker.log.splitlines()]
    # then one line has the end of the task, with the code and how long it took
    [end] = [told for told in lines if told.get("code")]
    assert end["logger"] == "celery.app.trace"
    assert (end["request_id"], end["stage"], end["code"]) == (request_id, "score", "fetch_refused")
    assert end["duration_s"] >= 0
    # and all that Celery says is there, and nothing private
    said = " ".join(told["message"] for told in lines)
    assert "Warm shutdown" in said
    assert "ready." in said
    assert "secret" not in worker.log
    assert "lighthouse" not in worker.log
