from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from redis import Redis

from m3agiqa.contract import ScoreRequest
from producers import keys, message
from producers.cli import main
from producers.dead import DeadLetter
from tests.producers.test_client import verdict
from tests.support import Web, Worker

Output = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _redis_of_the_test(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("M3AGIQA_REDIS_URL", redis_url)


def requests(redis: Redis, key: str = "score:3") -> list[ScoreRequest]:
    raw = reversed(redis.lrange(key, 0, -1))
    return [ScoreRequest.parse(message.parse(one, keys.SCORE_QUEUE).payload) for one in raw]


def write(path: Path, *rows: tuple[str, ...]) -> str:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    return str(path)


def test_one_picture(redis: Redis, capsys: Output) -> None:
    # when one picture is submitted with options
    arguments = (
        "one https://host/a.png --prompt cat --aspect quality --aspect authenticity --policy observe --priority 0"
    )
    assert main(arguments.split()) == 0
    # then its id is printed, and its request is on the queue
    [request] = requests(redis, "score")
    assert capsys.readouterr().out == f"{request.request_id}\n"
    assert (request.prompt, request.aspects, request.policy) == ("cat", ("quality", "authenticity"), "observe")


def test_one_picture_and_its_verdict(web: Web, worker_process: Callable[..., Worker], capsys: Output) -> None:
    worker_process("score")
    assert main(["one", web.url("a.png"), "--prompt", "cat", "--wait", "60", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["status"] == "scored"
    web.answers["gone.png"] = [404]
    assert main(["one", web.url("gone.png"), "--prompt", "cat", "--wait", "60"]) == 1
    assert "fetch_refused" in capsys.readouterr().out


def test_a_csv_with_bad_rows(redis: Redis, tmp_path: Path, capsys: Output) -> None:
    # given a CSV in which some rows are wrong, and one prompt spans two lines
    file = write(
        tmp_path / "a.csv",
        ("image_url", "prompt", "priority", "request_id"),
        ("https://host/a.png", "two\nlines", "", "first"),
        ("ftp://host/b.png", "a secret wish", "", "second"),
        ("https://host/c.png", "", "9", "third"),
        ("https://host/d.png", "", "4", "fourth"),
        ("https://host/e.png", "too few"),
    )
    # when it is submitted
    assert main(["csv", file]) == 1
    # then the good rows are on the queue, and the bad ones are named with their lines
    assert [request.request_id for request in (*requests(redis), *requests(redis, "score:9"))] == ["first", "third"]
    output = capsys.readouterr()
    assert output.out.split() == ["first", "third"]
    assert "line 4: image_url" in output.err
    assert "line 6: priority" in output.err
    assert "line 7: the number of fields" in output.err
    assert "3 rows were not submitted" in output.err
    assert "secret" not in output.err


def test_a_csv_longer_than_a_chunk(redis: Redis, tmp_path: Path, capsys: Output) -> None:
    rows = [("https://host/a.png", "p", f"r{number}") for number in range(450)]
    assert main(["csv", write(tmp_path / "a.csv", ("image_url", "prompt", "request_id"), *rows)]) == 0
    assert capsys.readouterr().out.split() == [f"r{number}" for number in range(450)]
    assert len(requests(redis)) == 450


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"image_url,caption\n", "columns"),
        (b"", "columns"),
        (b"image_url,prompt\nx,\xff\n", "UTF-8"),
        (None, "No such file"),
    ],
    ids=["columns", "empty", "encoding", "missing"],
)
def test_a_file_that_is_no_such_csv(content: bytes | None, said: str, tmp_path: Path, capsys: Output) -> None:
    if content is not None:
        (tmp_path / "a.csv").write_bytes(content)
    assert main(["csv", str(tmp_path / "a.csv")]) == 2
    assert said in capsys.readouterr().err


def test_result(redis: Redis, capsys: Output) -> None:
    redis.set(keys.result("a"), verdict("a").model_dump_json())
    assert main(["result", "a"]) == 0
    assert "accept" in capsys.readouterr().out
    assert main(["result", "b", "--wait", "0.1"]) == 1
    assert "no verdict for b" in capsys.readouterr().err


def test_export(redis: Redis, capsys: Output) -> None:
    for name in ("a", "b"):
        redis.set(keys.result(name), verdict(name).model_dump_json())
    assert main(["export"]) == 0
    assert sorted(json.loads(line)["request_id"] for line in capsys.readouterr().out.splitlines()) == ["a", "b"]


def test_dead_letters(redis: Redis, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    letter = DeadLetter(
        queue="deliver",
        request_id="a",
        kind="callback",
        code="delivery_gone",
        reason="host answered 410",
        attempts=1,
        message="private",
    )
    redis.hset(keys.DEAD, letter.id, letter.model_dump_json())
    assert main(["dead", "list"]) == 0
    output = capsys.readouterr().out
    assert "host answered 410" in output
    assert "private" not in output
    assert main(["dead", "list", "--json"]) == 0
    assert DeadLetter.model_validate_json(capsys.readouterr().out) == letter


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["one", "ftp://host/a.png", "--prompt", ""], 2),
        (["--redis-url", "nonsense", "export"], 2),
        (["--redis-url", "redis://127.0.0.1:1", "export"], 1),
    ],
)
def test_failures_are_one_line(arguments: list[str], code: int, capsys: Output) -> None:
    assert main(arguments) == code
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [[], ["one", "https://host/a.png"], ["one", "x", "--prompt", "", "--priority", "4"]]
)
def test_wrong_usage(arguments: list[str], capsys: Output) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage:" in capsys.readouterr().err
