from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from redis import Redis

from m3agiqa.client import Client
from m3agiqa.queue import keys
from m3agiqa.queue.ledger import Ledger
from producers.cli import main
from tests.support_verdicts import verdict

Output = pytest.CaptureFixture[str]
_LINE = re.compile(r"(20\d\d-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}) UTC +(\+\d+\.\d{3} s|) +(\S.*)")


@pytest.fixture(autouse=True)
def _redis_of_the_test(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("M3AGIQA_REDIS_URL", redis_url)


@pytest.fixture
def ledger(redis_url: str) -> Iterator[Ledger]:
    ledger = Ledger(redis_url)
    yield ledger
    ledger.close()


def test_state(client: Client, ledger: Ledger, capsys: Output) -> None:
    client.submit(image_url="https://host/a.png", prompt="", request_id="a")
    assert main(["state", "a"]) == 1
    assert "no request a is known" in capsys.readouterr().err
    ledger.admit(3)
    assert main(["state", "a"]) == 0
    assert capsys.readouterr().out == "submitted\n"
    assert main(["state", "b"]) == 1
    assert "no request b" in capsys.readouterr().err


def test_history_says_when_what_happened(client: Client, ledger: Ledger, capsys: Output) -> None:
    # given a request that was scored
    client.submit(image_url="https://host/a.png", prompt="a secret prompt", request_id="a")
    ledger.admit(3)
    with ledger.claim("a") as claim:
        claim.mark_scoring()
        claim.publish(verdict("a"))
    # when its history is printed
    assert main(["state", "a", "--history"]) == 0
    state, *lines = capsys.readouterr().out.splitlines()
    # then each line has its time, the seconds since the one before, and what happened
    assert state == "settled"
    told = [_LINE.fullmatch(line) for line in lines]
    assert [bool(line[2]) for line in told if line] == [False, True, True, True]
    assert [line[3].partition(" by ")[0] for line in told if line] == [
        "admitted",
        "score begun",
        "score has the image, waits for the model",
        "verdict published (accept)",
    ]


def test_a_line_that_cannot_be_read_is_shown_as_it_is(redis: Redis, capsys: Output) -> None:
    # given a history that begins in the middle of a line, with an escape sequence and a time that is none
    events = "56 admi\x1b[31mtted\n99999999999999.0 far\n1764312345.500000 score begun by x\n"
    redis.hset(keys.request("a"), mapping={"state": "settled", "history": f"7.1234{events}"})
    # then all of it is shown, and nothing that a terminal obeys
    assert main(["state", "a", "--history"]) == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "7.123456 admi" in shown
    assert "99999999999999.0 far" in shown
    assert "2025-11-28 06:45:45.500 UTC" in shown
