from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from redis import Redis

from m3agiqa.client import Client
from m3agiqa.contract import Failure, ScoreRequest
from m3agiqa.errors import DeliveryGone
from m3agiqa.queue import inbox, keys
from m3agiqa.queue.dead import DeadLetter
from m3agiqa.queue.inbox import MAX_ENTRY_BYTES
from m3agiqa.queue.ledger import Ledger
from producers.cli import main
from tests.support import Web, Worker
from tests.support_verdicts import verdict

Output = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _redis_of_the_test(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("M3AGIQA_REDIS_URL", redis_url)


def requests(redis: Redis, priority: int = 3) -> list[ScoreRequest]:
    """The requests that wait in an inbox, the next one first."""
    return [inbox.parse(text, priority) for text in reversed(redis.lrange(keys.inbox(priority), 0, -1))]


def write(path: Path, *rows: tuple[str, ...]) -> str:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    return str(path)


def test_one_image(redis: Redis, capsys: Output) -> None:
    # when one image is submitted with options
    arguments = (
        "one https://host/a.png --prompt cat --aspect quality --aspect authenticity --policy observe --priority 0"
    )
    assert main(arguments.split()) == 0
    # then its id is printed, and its request is in the inbox
    [request] = requests(redis, 0)
    assert capsys.readouterr().out == f"{request.request_id}\n"
    assert (request.prompt, request.aspects, request.policy) == ("cat", ("quality", "authenticity"), "observe")


@pytest.mark.parametrize("options", [[], ["--redis-url"]])
def test_the_namespace_of_the_environment_holds_for_any_url(
    options: list[str], redis: Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    monkeypatch.setenv("M3AGIQA_NAMESPACE", "staging")
    given = [*options, *[redis_url for _ in options]]
    assert main([*given, "one", "https://host/a.png", "--prompt", "cat"]) == 0
    assert redis.keys() == ["staging:m3agiqa:inbox:3"]
    # and what is none ends the command
    monkeypatch.setenv("M3AGIQA_NAMESPACE", "a b")
    assert main([*given, "export"]) == 1
    assert "M3AGIQA_NAMESPACE: a namespace has letters" in capsys.readouterr().err


def test_requests_are_taken_back(client: Client, capsys: Output) -> None:
    ids = [client.submit(image_url="https://host/a.png", prompt="", request_id=name) for name in ("a", "b", "c")]
    # when one is cancelled, again, with one that nobody knows
    assert main(["cancel", "a"]) == 0
    assert main(["cancel", "a"]) == 1
    assert main(["cancel", "unknown"]) == 2
    out, err = capsys.readouterr()
    assert out == "a\n"
    assert "a has its answer already" in err
    assert "no request unknown is known" in err
    # and then all that wait
    assert main(["purge"]) == 0
    assert sorted(capsys.readouterr().out.split()) == ["b", "c"]
    # then each is answered so
    assert {client.result(name, timeout=0).error.code for name in ids} == {"cancelled"}
    assert main(["purge"]) == 0
    assert capsys.readouterr().out == ""


def test_requests_are_erased(client: Client, redis: Redis, ledger: Ledger, capsys: Output) -> None:
    # given a request whose verdict lies in S3
    client.submit(image_url="https://host/a.png", prompt="", request_id="a", s3_uri="s3://out")
    ledger.admit(3)
    with ledger.claim("a") as claim:
        claim.publish(verdict("a"))
    with ledger.claim("a:s3") as delivery:
        delivery.delivered("s3://out", "s3://out/results/a.json")
    # when it is erased, and one that nobody knows
    assert main(["erase", "a", "unknown"]) == 0
    # then both are told, and what is left
    out, err = capsys.readouterr()
    first, second = map(json.loads, out.splitlines())
    assert (first["request_id"], first["request"], first["verdict"]) == ("a", True, True)
    assert (second["request_id"], second["request"]) == ("unknown", False)
    assert "s3://out/results/a.json is still there" in err
    assert redis.exists(keys.request("a")) == 0
    assert main(["erase", "a:b"]) == 2


def test_a_request_has_a_batch_and_may_be_tried_anew(redis: Redis, capsys: Output) -> None:
    options = ["--prompt", "cat", "--request-id", "a", "--batch-id", "monday"]
    assert main(["one", "https://host/a.png", *options, "--retry-failed"]) == 0
    assert main(["one", "https://host/a.png", *options, "--retry-failed", "--wait", "0"]) == 1
    assert {(request.batch_id, request.retry_failed) for request in requests(redis)} == {("monday", True)}
    for name, batch_id in (("a", "monday"), ("b", None)):
        redis.set(keys.result(name), verdict(name, batch_id=batch_id).model_dump_json())
    capsys.readouterr()
    assert main(["export", "--batch-id", "monday"]) == 0
    assert [json.loads(line)["request_id"] for line in capsys.readouterr().out.splitlines()] == ["a"]


def test_the_redis_url_of_the_environment_is_read_as_workers_read_it(
    redis_url: str, redis: Redis, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    monkeypatch.setenv("M3AGIQA_REDIS_URL", f" '{redis_url.replace('redis://', 'valkey://')}' ")
    assert main(["one", "https://host/a.png", "--prompt", "cat"]) == 0
    assert len(requests(redis)) == 1
    monkeypatch.setenv("M3AGIQA_REDIS_URL", "redis://:hush/word@host:6379")
    assert main(["purge"]) == 1
    assert "hush" not in (said := capsys.readouterr().err)
    assert "M3AGIQA_REDIS_PASSWORD" in said


def test_one_image_and_its_verdict(web: Web, worker_process: Callable[..., Worker], capsys: Output) -> None:
    worker_process("score")
    assert main(["one", web.url("a.png"), "--prompt", "cat", "--wait", "60", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["status"] == "scored"
    web.answers["gone.png"] = [404]
    assert main(["one", web.url("gone.png"), "--prompt", "cat", "--wait", "60"]) == 1
    assert "fetch_refused" in capsys.readouterr().out


def test_a_policy_that_no_worker_can_find_is_a_wrong_option_and_a_bad_row(
    redis: Redis, tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given the folder in which workers look, with no policy of its own
    (tmp_path / "policies").mkdir()
    monkeypatch.setenv("M3AGIQA_CONFIG_DIR", str(tmp_path))
    # when an image is submitted with an unknown policy, then it is wrong usage
    assert main(["one", "https://host/a.png", "--prompt", "", "--policy", "strct"]) == 2
    # and when a row of a file names one, the other rows are submitted
    file = write(
        tmp_path / "a.csv",
        ("image_url", "prompt", "policy"),
        ("https://host/a.png", "", "strct"),
        ("https://host/b.png", "", "observe"),
    )
    assert main(["csv", file]) == 1
    assert "line 2: policy: there is no strct; one of: default, observe" in capsys.readouterr().err
    assert [request.policy for request in requests(redis)] == ["observe"]


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


@pytest.fixture
def ledger(redis_url: str) -> Iterator[Ledger]:
    with closing(Ledger(redis_url)) as ledger:
        yield ledger


@pytest.fixture
def dead(ledger: Ledger, client: Client, redis: Redis, monkeypatch: pytest.MonkeyPatch) -> list[DeadLetter]:
    """Two dead letters: a delivery, and an entry too large to keep."""
    monkeypatch.setenv("COLUMNS", "200")
    client.submit(image_url="https://private/a.png", prompt="", request_id="a", callback_url="https://private/hook")
    ledger.admit(3)
    with ledger.claim("a") as claim:
        claim.publish(verdict("a"))
    with ledger.claim("a:callback") as claim:
        claim.bury(DeliveryGone("host answered 410"))
    redis.lpush(keys.inbox(3), "private" + " " * MAX_ENTRY_BYTES)
    ledger.admit(3)
    redis.delete("score:3", keys.DELIVER_QUEUE)
    return list(client.dead_letters())[::-1]


def test_dead_letters_are_listed_with_whole_ids_on_any_terminal(
    dead: list[DeadLetter], capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["dead", "list"]) == 0
    narrow = capsys.readouterr().out
    assert all(letter.id in narrow for letter in dead)
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["dead", "list"]) == 0
    output = capsys.readouterr().out
    assert "host answered 410" in output
    assert dead[0].id in output
    assert "private" not in output
    assert main(["dead", "list", "--json"]) == 0
    assert [DeadLetter.model_validate_json(line) for line in capsys.readouterr().out.splitlines()] == dead[::-1]


def test_a_dead_letter_is_shown(dead: list[DeadLetter], capsys: Output) -> None:
    assert main(["dead", "show", dead[0].id]) == 0
    shown = capsys.readouterr().out
    assert "callback begun by" in shown
    assert "https://private/hook" in shown
    assert main(["dead", "show", dead[0].id, "--json"]) == 0
    assert DeadLetter.model_validate_json(capsys.readouterr().out) == dead[0]
    assert main(["dead", "show", "none-such"]) == 2
    assert "no dead letter none-such" in capsys.readouterr().err


def test_a_dead_letter_does_not_speak_to_the_terminal(
    redis: Redis, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    loud = "\x1b]0;title\x07 \u202e [/red] [bold]x[/bold]"
    letter = DeadLetter(
        queue=loud, request_id=None, kind="request", code="c", reason=loud, attempts=1, message=loud, history=(loud,)
    )
    redis.hset(keys.DEAD, letter.id, letter.model_dump_json())
    for arguments in (["dead", "list"], ["dead", "show", letter.id]):
        assert main(arguments) == 0
        output = capsys.readouterr().out
        assert not set("\x1b\x07\u202e") & set(output)
        assert "[/red]" in output


def test_brackets_in_a_failures_words_are_no_markup(redis: Redis, capsys: Output) -> None:
    failure = Failure(code="request_invalid", message="[/red]: Extra inputs", retryable=False)
    failed = verdict("x").model_copy(update={"error": failure, "status": "failed", "reasons": ("[/blue] is low",)})
    redis.set(keys.result("x"), failed.model_dump_json())
    assert main(["result", "x"]) == 1
    output = capsys.readouterr().out
    assert "[/red]: Extra inputs" in output
    assert "[/blue] is low" in output


def test_a_dead_letter_is_replayed(dead: list[DeadLetter], redis: Redis, client: Client, capsys: Output) -> None:
    assert main(["dead", "replay", dead[0].id]) == 0
    assert capsys.readouterr().out == f"{dead[0].id}\n"
    assert redis.lrange("deliver", 0, -1) == ["a:callback"]
    assert client.state("a") == "scored"
    assert main(["dead", "replay", dead[0].id]) == 2
    # what was not kept cannot be
    assert main(["dead", "replay", dead[1].id]) == 2
    assert "too large" in capsys.readouterr().err


def test_all_dead_letters_are_replayed_but_those_that_cannot_be(dead: list[DeadLetter], redis: Redis) -> None:
    assert main(["dead", "replay", "--all"]) == 0
    assert redis.hkeys(keys.DEAD) == [dead[1].id]


def test_dead_letters_are_dropped(dead: list[DeadLetter], redis: Redis, capsys: Output) -> None:
    assert main(["dead", "drop", dead[1].id]) == 0
    assert redis.hkeys(keys.DEAD) == [dead[0].id]
    assert main(["dead", "drop", "--all"]) == 0
    assert redis.hkeys(keys.DEAD) == []
    assert redis.llen("deliver") == 0


def test_a_mistake_is_put_back_into_its_inbox(ledger: Ledger, client: Client, redis: Redis, capsys: Output) -> None:
    redis.lpush(keys.inbox(9), "no JSON")
    ledger.admit(9)
    [letter] = client.dead_letters()
    assert main(["dead", "replay", letter.id]) == 0
    assert redis.lrange(keys.inbox(9), 0, -1) == ["no JSON"]
    assert redis.hlen(keys.DEAD) == 0


def test_a_full_queue_is_a_failure_that_says_when_to_come_back(redis: Redis, capsys: Output) -> None:
    arguments = ["--max-queued", "1", "one", "https://host/a.png", "--prompt", "", "--expires-in", "60"]
    assert main(arguments) == 0
    [request] = requests(redis)
    assert request.expires_at is not None
    assert 0 < (request.expires_at - request.submitted_at).total_seconds() <= 61
    assert main(arguments) == 1
    assert "come back in 1 s" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["one", "ftp://host/a.png", "--prompt", ""], 2),
        (["one", "https://host/a.png", "--prompt", "", "--expires-in", "1e20"], 2),
        (["one", "https://host/a.png", "--prompt", "", "--expires-in", "1e11"], 2),
        (["one", "https://host/a.png", "--prompt", "", "--expires-in", "nan"], 2),
        (["one", "https://host/a.png", "--prompt", "", "--expires-in", "inf"], 2),
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
