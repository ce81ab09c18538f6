"""Backends that one may copy: they run, and what they show is what verdicts say."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from tests.judge import Judge
from tests.producers.test_examples import BODY, EXAMPLES, NEW, STRANGER, post, send, signed
from tests.support import PATIENCE_S, ROOT, Worker, eventually, free_port, png


@contextmanager
def running(log: Path, *command: str, **environment: object) -> Iterator[None]:
    """A program of the examples, which writes into `log`."""
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **{name: str(value) for name, value in environment.items()}}
    with (
        log.open("wb") as out,
        subprocess.Popen(
            [sys.executable, "-m", *command], cwd=EXAMPLES, env=variables, stdout=out, stderr=subprocess.STDOUT
        ) as program,
    ):
        try:
            yield
        finally:
            # With its children.
            program.terminate()
            program.wait(PATIENCE_S)


@contextmanager
def fastapi(log: Path, redis_url: str, port: int, **environment: object) -> Iterator[Callable[..., dict[str, str]]]:
    url = f"http://127.0.0.1:{port}"

    def ask(path: str, method: str = "GET") -> dict[str, str]:
        with urllib.request.urlopen(urllib.request.Request(url + path, method=method), timeout=30) as answer:
            found: dict[str, str] = json.load(answer)
            return found

    variables = {"REDIS_URL": redis_url, "WEBHOOK_SECRET": NEW, "PUBLIC_URL": url, **environment}
    with running(log, "uvicorn", "fastapi_backend:app", "--port", str(port), **variables):
        eventually(lambda: post(port, b"", {}) == 401, "the backend answers")
        yield ask


def created(ask: Callable[..., dict[str, str]], prompt: str) -> dict[str, str]:
    return ask(f"/images?prompt={urllib.parse.quote(prompt)}", "POST")


def test_fastapi_shows_what_signed_verdicts_say(
    redis_url: str, judge: Judge, worker_process: Callable[..., Worker], tmp_path: Path
) -> None:
    # given a backend, and a deliver worker that signs with its secret
    port = free_port()
    worker_process("deliver", deliver_allow_hosts=f"127.0.0.1:{port}", webhook_secrets=NEW)
    with fastapi(tmp_path / "log", redis_url, port) as ask:
        # when images are generated, then nobody waits for a verdict, and each is shown as its own says
        wanted = {"accept a cat": "shown", "review a cat": "held", "reject a cat": "withdrawn", "fail a cat": "shown"}
        made = {prompt: created(ask, prompt)["id"] for prompt in wanted}
        for prompt, state in wanted.items():
            eventually(lambda p=prompt, s=state: ask(f"/images/{made[p]}")["state"] == s, prompt)  # type: ignore[misc]
        assert {request.request_id: request.prompt for request in judge.asked} == {
            image_id: prompt for prompt, image_id in made.items()
        }
        assert "has no score and is shown: no score in time" in (tmp_path / "log").read_text()
        # and nothing that a stranger sends changes anything
        forged = BODY.replace("r-1", made["reject a cat"]).encode()
        assert post(port, forged, signed(STRANGER, forged)) == 401
        assert post(port, bytes(2**20 + 1), signed(NEW, forged)) == 413
        assert ask(f"/images/{made['reject a cat']}")["state"] == "withdrawn"
        # and what is signed, of an image that it does not know, is taken
        send(port, NEW)
        with pytest.raises(urllib.error.HTTPError, match="404"):
            ask("/images/unknown")


@pytest.mark.parametrize(("otherwise", "state"), [("keep", "shown"), ("drop", "withdrawn")])
def test_fastapi_decides_for_itself_where_no_verdict_comes(
    otherwise: str, state: str, redis_url: str, unused_port: int, tmp_path: Path
) -> None:
    options = {"OTHERWISE": otherwise, "TIMEOUT_S": 0.1}
    with fastapi(tmp_path / "log", redis_url, free_port(), **options) as ask:
        image_id = created(ask, "silence")["id"]
        eventually(lambda: ask(f"/images/{image_id}")["state"] == state, "it is decided")
    with fastapi(tmp_path / "away", f"redis://127.0.0.1:{unused_port}", free_port(), **options) as ask:
        assert created(ask, "accept")["state"] == state
    assert "cannot be reached" in (tmp_path / "away").read_text()


@contextmanager
def celery(log: Path, redis_url: str, **environment: object) -> Iterator[Celery]:
    """A worker of the backend's own Celery, with one process, and a Celery to send it tasks."""
    broker = redis_url.removesuffix("/0") + "/1"
    variables = {"REDIS_URL": redis_url, "BROKER_URL": broker, "LOOK_S": 0.1, **environment}
    command = ["celery", "-A", "celery_backend", "worker", "-c", "1", "-l", "INFO"]
    with running(log, *command, **variables), Celery(broker=broker) as app:
        eventually(lambda: "ready" in log.read_text(), "the backend's worker")
        yield app


def moderate(app: Celery, image_id: str, prompt: str) -> None:
    app.send_task("celery_backend.moderate", (image_id, "https://host/a.png", prompt))


@pytest.mark.usefixtures("judge")
def test_celery_acts_on_verdicts_and_waits_for_none(redis_url: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with celery(log, redis_url) as app:
        # given a task whose verdict does not come, in a Celery with one process
        moderate(app, "silent", "silence")
        # when others are submitted, one of them twice, then they are decided meanwhile
        for name in ("accept", "review", "reject", "fail", "accept"):
            moderate(app, name, name)
        for name, todo in {"accept": "shown", "review": "held", "reject": "withdrawn", "fail": "shown"}.items():
            eventually(lambda line=f"image {name} is {todo}": line in log.read_text(), name)  # type: ignore[misc]
        assert "image fail has no score and is shown: no score in time" in log.read_text()
        assert "image silent is" not in log.read_text()


@pytest.mark.parametrize(("otherwise", "todo"), [("keep", "shown"), ("drop", "withdrawn")])
def test_celery_decides_for_itself_where_no_verdict_comes(
    otherwise: str, todo: str, redis_url: str, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with celery(log, redis_url, OTHERWISE=otherwise, TIMEOUT_S=0.5) as app:
        moderate(app, "silent", "silence")
        moderate(app, "wrong", "x" * 9_000)
        eventually(lambda: f"image silent is {todo}" in log.read_text(), "it is decided")
        eventually(lambda: f"image wrong is {todo}" in log.read_text(), "it is decided")


@pytest.fixture
def gate(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the script, with the command of this tree."""
    if shutil.which("jq") is None:
        pytest.skip("no jq here")
    command = tmp_path / "bin" / "m3agiqa-submit"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m producers.cli "$@"\n')
    command.chmod(0o755)
    (tmp_path / "a b.png").write_bytes(png())

    def run(image: str, prompt: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environment: dict[str, Any] = {"PATH": f"{command.parent}:{os.environ['PATH']}", "M3AGIQA_REDIS_URL": redis_url}
        return subprocess.run(
            [EXAMPLES / "gate.sh", image, prompt],
            cwd=tmp_path,
            env=environment | variables,
            capture_output=True,
            text=True,
            check=True,
        )

    return run


def test_the_script_says_what_a_verdict_says(gate: Callable[..., Any], judge: Judge, unused_port: int) -> None:
    for prompt in ("accept", "review", "reject"):
        assert gate("a b.png", prompt).stdout == f"{prompt}\n"
    assert gate("https://host/a.png", 'accept --a "cat" \' \\ %s').stdout == "accept\n"
    assert judge.asked[-1].prompt == 'accept --a "cat" \' \\ %s'
    assert gate("a b.png", "unfit", OTHERWISE="accept").stdout == "review\n"
    failed = gate("a b.png", "fail")
    assert (failed.stdout, "no score: no score in time" in failed.stderr) == ("review\n", True)
    assert gate("a b.png", "silence", TIMEOUT_S="0.1", OTHERWISE="accept").stdout == "accept\n"
    away = gate("a b.png", "reject", M3AGIQA_REDIS_URL=f"redis://127.0.0.1:{unused_port}")
    assert (away.stdout, "cannot be reached" in away.stderr) == ("review\n", True)


def test_a_call_of_the_script_that_is_wrong_accepts_nothing(gate: Callable[..., Any], judge: Judge) -> None:
    without_command = {"PATH": "/usr/bin:/bin"}
    for image, variables in (("missing.png", {}), ("a b.png", {"OTHERWISE": "keep"}), ("a b.png", without_command)):
        with pytest.raises(subprocess.CalledProcessError) as wrong:
            gate(image, "accept", **variables)
        assert (wrong.value.returncode, wrong.value.stdout) == (2, "")
        assert wrong.value.stderr
