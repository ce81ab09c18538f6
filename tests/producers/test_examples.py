"""The examples for backends in other languages make requests that a worker takes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from redis import Redis

from m3agiqa.contract import VERSION, ScoreRequest
from m3agiqa.queue import inbox, keys
from m3agiqa.queue.ledger import Ledger
from tests.support import ROOT

EXAMPLES = ROOT / "producers" / "examples"
URL = "https://images.example/a.png?signature=b%2Fc"
PROMPT = 'a "quoted" café, 5 o\'clock, \\ and \u4e2d\u6587'

needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="no node here")
needs_jq = pytest.mark.skipif(shutil.which("jq") is None, reason="no jq here")


def check(raw: str, priority: int = 3) -> ScoreRequest:
    request = inbox.parse(raw, priority)
    assert (request.image_url, request.prompt, request.version) == (URL, PROMPT, VERSION)
    assert abs((datetime.now(UTC) - request.submitted_at).total_seconds()) < 3600
    return request


def node(*arguments: str) -> str:
    return subprocess.run(["node", *arguments], capture_output=True, text=True, check=True).stdout


@needs_node
def test_node() -> None:
    # when the program prints a request
    printed = node(str(EXAMPLES / "score-request.mjs"), URL, PROMPT)
    # then a worker takes it, under the id that it names itself
    assert check(printed).request_id == json.loads(printed)["request_id"]


@needs_node
def test_node_puts_priorities_on_their_lists() -> None:
    program = f"""
        import {{ scoreRequest }} from {str(EXAMPLES / "score-request.mjs")!r};
        const image = {{ image_url: {URL!r}, prompt: process.argv[1] }};
        for (const fields of [{{ priority: 0 }}, {{ priority: 9, request_id: "mine" }}, {{}}]) {{
            const {{ id, key, request }} = scoreRequest({{ ...image, ...fields }});
            console.log(id, key, request);
        }}
    """
    lines = node("--input-type=module", "--eval", program, PROMPT).splitlines()
    ids = []
    for line, priority in zip(lines, (0, 9, 3), strict=True):
        request_id, list_key, raw = line.split(" ", 2)
        assert list_key == keys.inbox(priority)
        assert check(raw, priority).request_id == request_id
        ids.append(request_id)
    assert ids[1] == "mine"
    assert len(set(ids)) == 3


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
