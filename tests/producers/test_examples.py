"""The examples for backends in other languages make messages that a worker takes."""

from __future__ import annotations

import os
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from m3agiqa.contract import ScoreRequest
from producers import keys, message
from tests.support import ROOT

EXAMPLES = ROOT / "producers" / "examples"
URL = "https://pictures.example/a.png?signature=b%2Fc"
PROMPT = 'a "quoted" café, 5 o\'clock, \\ and \u4e2d\u6587'


def check(raw: str) -> ScoreRequest:
    found = message.parse(raw, keys.SCORE_QUEUE)
    request = ScoreRequest.parse(found.payload)
    assert (request.image_url, request.prompt) == (URL, PROMPT)
    assert found.task_id == request.request_id
    assert abs((datetime.now(UTC) - request.submitted_at).total_seconds()) < 3600
    return request


@pytest.mark.skipif(shutil.which("node") is None, reason="no node here")
def test_node() -> None:
    command = ["node", str(EXAMPLES / "score-message.mjs"), URL, PROMPT]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert check(ended.stdout).priority == 3


@pytest.mark.skipif(shutil.which("node") is None, reason="no node here")
def test_node_puts_priorities_on_their_lists() -> None:
    program = f"""
        import {{ scoreMessage }} from {str(EXAMPLES / "score-message.mjs")!r};
        for (const priority of [0, 9]) {{
            const {{ id, key, message }} = scoreMessage({{ image_url: "https://a.example/b", prompt: "", priority }});
            console.log(id, key, message);
        }}
    """
    command = ["node", "--input-type=module", "--eval", program]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    for line, priority in zip(ended.stdout.splitlines(), (0, 9), strict=True):
        request_id, list_key, raw = line.split(" ", 2)
        assert list_key == message.list_key(keys.SCORE_QUEUE, priority)
        request = ScoreRequest.parse(message.parse(raw, keys.SCORE_QUEUE).payload)
        assert (request.request_id, request.priority) == (request_id, priority)


@pytest.mark.skipif(shutil.which("jq") is None, reason="no jq here")
def test_shell(tmp_path: Path) -> None:
    # given a redis-cli that keeps what it was asked to send
    stand_in = tmp_path / "redis-cli"
    stand_in.write_text(f'#!/bin/sh\necho "$@" > "{tmp_path}/arguments"\ncat > "{tmp_path}/message"\n')
    stand_in.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "REDIS_URL": "redis://queue.example:6379/0"}
    # when the script submits a picture
    command = [str(EXAMPLES / "submit.sh"), URL, PROMPT]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    # then it is a message on the list of its priority, under the id that was printed
    request = check((tmp_path / "message").read_text(encoding="utf-8"))
    assert request.request_id == ended.stdout.strip()
    list_key = message.list_key(keys.SCORE_QUEUE, request.priority)
    arguments = (tmp_path / "arguments").read_text(encoding="utf-8").split()
    assert arguments == ["-u", "redis://queue.example:6379/0", "-x", "LPUSH", list_key]
