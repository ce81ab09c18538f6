from __future__ import annotations

import gzip
import json
import secrets
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from m3agiqa.errors import ConfigError
from producers import Client
from tests.support import ROOT, Web, Worker, eventually
from worker.ops.reporting import setup_sentry
from worker.settings import Settings

IN_A_TASK = """
import logging, sys
import sentry_sdk
from celery import Celery
from m3agiqa.errors import FetchRefused
from worker.ops.reporting import setup_sentry
from worker.settings import Settings

setup_sentry(Settings(sentry_dsn=sys.argv[1], sentry_environment="testing"))
app = Celery("test", set_as_current=False)
app.conf.task_store_eager_result = False

@app.task(name="test.task")
def task(payload, image_url=None):
    prompt, url = payload["prompt"], image_url
    sentry_sdk.set_tag("url", url)
    sentry_sdk.set_extra("prompt", prompt)
    sentry_sdk.set_context("request", {"url": url, "prompt": prompt})
    sentry_sdk.set_user({"id": prompt})
    sentry_sdk.add_breadcrumb(category="http", message=url, data={"prompt": prompt})
    logging.getLogger("worker").warning("a breadcrumb about %s", url)
    logging.getLogger("worker").error("template of ours: %s", url, extra={"prompt": prompt})
    logging.getLogger("stranger").error(f"stranger logs {url} {prompt}")
    with sentry_sdk.start_transaction(name=url):
        with sentry_sdk.start_span(op="http", name=url):
            pass
    try:
        {}[prompt]
    except KeyError as error:
        try:
            raise FetchRefused("images.example answered 404") from error
        except FetchRefused as refused:
            failure = LookupError(f"{prompt} at {url}")
            failure.add_note(prompt)
            raise failure from refused

task.apply(args=[{"prompt": sys.argv[2]}], kwargs={"image_url": f"https://images.example/{sys.argv[3]}?sig={sys.argv[3]}"})
sentry_sdk.flush(30)
"""


class Ingest:
    """Sentry's side."""

    def __init__(self, serve: Any) -> None:
        self.server = serve(lambda request: request.reply(200, b"{}"))

    @property
    def dsn(self) -> str:
        return f"http://key@{self.server.netloc}/1"

    @property
    def envelopes(self) -> list[str]:
        bodies = [request.body for request in list(self.server.received)]
        return [(gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body).decode() for body in bodies]

    def events(self) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = []
        for envelope in self.envelopes:
            lines = envelope.splitlines()
            for header, payload in zip(lines[1::2], lines[2::2], strict=True):
                if json.loads(header)["type"] == "event":
                    items.append(json.loads(payload))
        return items


@pytest.fixture
def ingest(serve: Any) -> Ingest:
    return Ingest(serve)


def types(event: dict[str, Any]) -> list[str]:
    return [value["type"] for value in event.get("exception", {"values": []})["values"]]


def test_an_error_in_a_task_is_reported_without_what_the_task_was_about(ingest: Ingest) -> None:
    # Given a task that raises with a prompt and a URL in its arguments, locals, messages, tags, and everywhere else
    prompt, path = (secrets.token_hex(16) for _ in range(2))
    run = subprocess.run(
        [sys.executable, "-c", IN_A_TASK, ingest.dsn, prompt, path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    # When Sentry has got it
    [failure] = [event for event in ingest.events() if "LookupError" in types(event)]
    # Then it says what failed, where, and in which task
    assert types(failure) == ["KeyError", "FetchRefused", "LookupError"]
    assert failure["transaction"] == "test.task"
    assert failure["environment"] == "testing"
    assert failure["tags"]["celery_task_id"]
    values = failure["exception"]["values"]
    assert values[1]["value"] == "images.example answered 404"
    assert any(frame["function"] == "task" for frame in values[-1]["stacktrace"]["frames"])
    # And nothing in any envelope is private
    for envelope in ingest.envelopes:
        assert prompt not in envelope
        assert path not in envelope
        assert "images.example/" not in envelope


def test_logged_errors_keep_the_template_of_ours_and_nothing_of_strangers(ingest: Ingest) -> None:
    subprocess.run([sys.executable, "-c", IN_A_TASK, ingest.dsn, "p", "u"], cwd=ROOT, check=True, timeout=120)
    logged = {event.get("logger"): event.get("logentry") for event in ingest.events() if not types(event)}
    assert logged == {"worker": {"message": "template of ours: %s"}, "stranger": None}


def test_no_transaction_leaves_the_process(ingest: Ingest) -> None:
    subprocess.run([sys.executable, "-c", IN_A_TASK, ingest.dsn, "p", "u"], cwd=ROOT, check=True, timeout=120)
    assert ingest.events()
    assert not any('"type":"transaction"' in envelope.replace(" ", "") for envelope in ingest.envelopes)


def test_the_worker_reports_what_nobody_foresaw(
    ingest: Ingest, worker_process: Callable[..., Worker], client: Client, web: Web
) -> None:
    # Given a worker whose fetching breaks in a way of its own
    prelude = (
        "import worker.score.fetch\n"
        "def broken(self, url, *more):\n"
        "    raise ZeroDivisionError(url)\n"
        "worker.score.fetch.Fetcher.fetch = broken\n"
    )
    worker_process("score", prelude=prelude, sentry_dsn=ingest.dsn, score_retry_delays_s=",")
    # When an image is submitted
    prompt, path = secrets.token_hex(16), secrets.token_hex(16)
    client.submit(image_url=web.url(f"{path}?sig={path}"), prompt=prompt)

    # Then the error arrives, without the image's URL or prompt
    def reported() -> list[dict[str, Any]]:
        return [event for event in ingest.events() if "ZeroDivisionError" in types(event)]

    [event] = eventually(reported, "the error is reported")
    assert event["transaction"] == "m3agiqa.score"
    for envelope in ingest.envelopes:
        assert prompt not in envelope
        assert path not in envelope


def test_without_a_dsn_nothing_is_set_up() -> None:
    program = (
        "import sentry_sdk\n"
        "from worker.ops.reporting import setup_sentry\n"
        "from worker.settings import Settings\n"
        "setup_sentry(Settings())\n"
        "print(sentry_sdk.get_client().is_active())\n"
    )
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (run.returncode, run.stdout) == (0, "False\n"), run.stderr


def test_a_dsn_that_is_none_is_an_error_that_does_not_show_it() -> None:
    with pytest.raises(ConfigError, match="M3AGIQA_SENTRY_DSN") as failure:
        setup_sentry(Settings(sentry_dsn="hunter2"))
    assert "hunter2" not in str(failure.value)
