"""The examples run: what they submit a worker takes, and what a worker sends they verify."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from redis import Redis
from standardwebhooks import Webhook

from m3agiqa.contract import VERSION, Decision, ScoreRequest
from m3agiqa.errors import DeliveryUnavailable
from m3agiqa.queue import inbox, keys
from m3agiqa.queue.ledger import Ledger
from producers import Client
from tests.support import ROOT, Web, Worker, eventually, free_port
from tests.support_verdicts import verdict
from worker.delivery.sender import Delivery, Sender
from worker.settings import Settings

EXAMPLES = ROOT / "producers" / "examples"
URL = "https://images.example/a.png?signature=b%2Fc"
PROMPT = 'a "quoted" café, 5 o\'clock, \\ and \u4e2d\u6587'

OLD, NEW, STRANGER = ("whsec_" + base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2, 3))
BODY = verdict("r-1").model_dump_json()

needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="no node here")
needs_jq = pytest.mark.skipif(shutil.which("jq") is None, reason="no jq here")


def check(raw: str, priority: int = 3) -> ScoreRequest:
    request = inbox.parse(raw, priority)
    assert (request.image_url, request.prompt, request.version) == (URL, PROMPT, VERSION)
    assert abs((datetime.now(UTC) - request.submitted_at).total_seconds()) < 3600
    return request


@needs_jq
def test_shell(tmp_path: Path, redis_url: str, redis: Redis) -> None:
    # given a redis-cli that keeps what it was asked to send
    stand_in = tmp_path / "redis-cli"
    stand_in.write_text(f'#!/bin/sh\necho "$@" > "{tmp_path}/arguments"\ncat > "{tmp_path}/request"\n')
    stand_in.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "REDIS_URL": redis_url}
    # when the script submits an image
    command = [str(EXAMPLES / "submit.sh"), URL, PROMPT]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    # then it is for the inbox of its priority, under the id that was printed
    arguments = (tmp_path / "arguments").read_text(encoding="utf-8").split()
    assert arguments == ["-u", redis_url, "-x", "LPUSH", keys.inbox(3)]
    raw = (tmp_path / "request").read_text(encoding="utf-8")
    assert check(raw).request_id == ended.stdout.strip()
    # and a worker takes it in, with the line break that ends it
    redis.lpush(keys.inbox(3), raw)
    ledger = Ledger(redis_url)
    ledger.admit(3)
    ledger.close()
    assert redis.lrange("score:3", 0, -1) == [ended.stdout.strip()]


RECEIVERS = {
    "python": [sys.executable, "receive.py"],
    "node": ["node", "receive.mjs"],
}


@contextmanager
def receiving(program: str, log: Path) -> Iterator[int]:
    """The port at which one of the receivers listens, with the secret NEW; what it prints goes to `log`."""
    port = free_port()
    environment = {**os.environ, "WEBHOOK_SECRET": NEW}
    command = [*RECEIVERS[program], str(port)]
    with log.open("wb") as out, subprocess.Popen(command, cwd=EXAMPLES, env=environment, stdout=out) as process:
        try:
            eventually(lambda: post(port, b"", {}) == 401, "the receiver answers")
            yield port
        finally:
            process.kill()


def post(port: int, body: bytes, headers: dict[str, str]) -> int | None:
    """The status that a receiver answers with; None if nobody listens."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/verdicts", data=body, headers=headers, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code
    except urllib.error.URLError:
        return None


def signed(secret: str, body: bytes, age: timedelta = timedelta()) -> dict[str, str]:
    then = datetime.now(UTC) - age
    return {
        "webhook-id": "r-1",
        "webhook-timestamp": str(int(then.timestamp())),
        "webhook-signature": Webhook(secret).sign("r-1", then, body.decode()),
    }


def send(port: int, *secrets: str) -> None:
    """Deliver BODY as a worker does that has these secrets."""
    settings = Settings(deliver_allow_hosts=(f"127.0.0.1:{port}",), webhook_secrets=secrets)  # type: ignore[arg-type]
    delivery = Delivery("r-1", "callback", f"http://127.0.0.1:{port}/verdicts", BODY, datetime.now(UTC))
    Sender(settings).send(delivery)


@pytest.mark.parametrize("program", ["python", pytest.param("node", marks=needs_node)])
def test_a_receiver_believes_what_was_signed_and_nothing_else(program: str, tmp_path: Path) -> None:
    log, body = tmp_path / "log", BODY.encode()
    with receiving(program, log) as port:
        # when a worker delivers a verdict, also while secrets change
        send(port, NEW)
        send(port, OLD, NEW)
        # and a stranger sends what was not signed, signed by somebody else, changed on the way, or kept for an hour
        with pytest.raises(DeliveryUnavailable, match="401"):
            send(port, STRANGER)
        genuine = signed(NEW, body)
        assert post(port, body, genuine) == 204
        assert post(port, body.replace(b"accept", b"reject"), genuine) == 401
        assert post(port, body, {**genuine, "webhook-id": "r-2"}) == 401
        assert post(port, body, {**genuine, "webhook-timestamp": "now"}) == 401
        assert post(port, body, {**genuine, "webhook-signature": "v1,"}) == 401
        assert post(port, body, signed(NEW, body, age=timedelta(hours=1))) == 401
        assert post(port, body, {}) == 401
    # then it prints the genuine ones alone
    assert log.read_text(encoding="utf-8").splitlines() == ["r-1 accept"] * 3


@pytest.mark.parametrize(
    ("decision", "printed"), [("accept", "show"), ("review", "hold for a moderator"), ("reject", "withdraw")]
)
def test_a_backend_does_what_a_verdict_says(
    decision: str, printed: str, client: Client, redis: Redis, redis_url: str
) -> None:
    # given a backend that submits an image and waits
    command = [sys.executable, str(EXAMPLES / "backend.py"), URL, PROMPT]
    environment = {**os.environ, "REDIS_URL": redis_url, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        request = eventually(lambda: redis.lindex(keys.inbox(3), 0), "the image is submitted")
        # when its verdict is there
        request_id = inbox.parse(request, 3).request_id
        answer = verdict(request_id).model_copy(update={"decision": Decision(decision)})
        redis.set(keys.result(request_id), answer.model_dump_json())
        # then it does that
        assert process.communicate(timeout=60)[0].strip() == printed
        assert process.returncode == 0


def test_the_readmes_program_waits_for_a_verdict(
    redis_url: str, web: Web, worker_process: Callable[..., Worker], capsys: pytest.CaptureFixture[str]
) -> None:
    # given a worker of this machine
    worker_process("score")
    [program] = [text for text in python_blocks(ROOT / "README.md") if "client.submit(" in text]
    here = program.replace("redis://localhost:6379/0", redis_url).replace("127.0.0.1:8000", web.endpoint)
    # when the README's program runs
    exec(compile(here, "README.md", "exec"), {})  # noqa: S102
    # then it prints what was decided
    assert capsys.readouterr().out.split()[0] in ("accept", "review", "reject")


def python_blocks(page: Path) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return [block.partition("```")[0] for block in text.split("```python\n")[1:]]
