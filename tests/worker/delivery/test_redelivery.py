from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook

from m3agiqa import cli
from m3agiqa.console import DONE, FAILED
from m3agiqa.contract import Asked, Decision, Verdict
from m3agiqa.policy import Policy
from m3agiqa.report import judged
from tests.support import PATIENCE_S, ROOT
from tests.support_verdicts import scored, verdict
from tests.worker.conftest import Handler, HttpServer

SECRET = "whsec_" + "c2VjcmV0" * 5
URL = "https://images.example/a.png"


@pytest.fixture
def strict(tmp_path: Path) -> Path:
    """A policy that rejects what scores below 3; images score 2 or 4."""
    file = tmp_path / "strict.yaml"
    file.write_text("name: strict\nversion: 1\naspects: {quality: {reject_below: 3, review_below: 3}}\n")
    return file


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Settings for whoever delivers from here on: no waiting between attempts."""

    def given(*servers: HttpServer, **more: str) -> None:
        names = {
            "DELIVER_ALLOW_HOSTS": ",".join(server.netloc for server in servers),
            "WEBHOOK_SECRETS": SECRET,
            "DELIVER_RETRY_DELAYS_S": "0,0",
        }
        for name, value in {**names, **more}.items():
            monkeypatch.setenv(f"M3AGIQA_{name}", value)

    return given


def verdicts(path: Path, names: Iterable[str], score: float = 2.0, **request: str) -> Path:
    asked = Asked(image_url=URL, prompt="a cat", **request) if request else None
    lines = [verdict(name, aspects=scored(quality=score), request=asked).model_dump_json() for name in names]
    with path.open("a") as file:
        file.writelines(line + "\n" for line in lines)
    return path


def redecide(source: Path, policy: Path, *more: str) -> int:
    out = source.with_name("out.jsonl")
    return cli.main(["redecide", str(source), "--policy", str(policy), "-o", str(out), *more])


def ids(server: HttpServer) -> list[str]:
    return [request.headers["webhook-id"] for request in server.received]


def ok(request: Handler) -> None:
    request.reply(204)


# --- what is sent ------------------------------------------------------------------------------------------------


def test_a_decision_that_changed_is_delivered_signed_under_an_id_of_its_own(
    serve: Any, settings: Any, strict: Path, tmp_path: Path
) -> None:
    # given a verdict that flips and one that does not
    server = serve(ok)
    settings(server)
    source = verdicts(tmp_path / "v.jsonl", ["a.b"], callback_url=f"{server.url}/hook")
    verdicts(source, ["same"], 4.0, callback_url=server.url)
    # when they are decided anew and delivered
    assert redecide(source, strict, "--deliver") == DONE
    # then the receiver gets the first, as the file has it
    [request] = server.received
    first, second = (tmp_path / "out.jsonl").read_bytes().splitlines()
    assert request.body == first
    assert Webhook(SECRET).verify(request.body, request.headers) == json.loads(first)
    digest = Policy.load(str(strict)).ref.digest
    assert request.headers["webhook-id"] == f"a~b:{digest}"
    told = Verdict.model_validate_json(request.body)
    assert (told.type, told.request_id, told.decision) == ("verdict.redecided", "a.b", Decision.REJECT)
    assert told.redecided is not None
    assert told.redecided.decision == Decision.ACCEPT
    # and the other is in the file all the same
    assert Verdict.model_validate_json(second).policy == Policy.load(str(strict)).ref


def test_all_are_delivered_if_asked_for(serve: Any, settings: Any, strict: Path, tmp_path: Path) -> None:
    server = serve(ok)
    settings(server)
    source = verdicts(tmp_path / "v.jsonl", ["a"], callback_url=server.url)
    verdicts(source, ["same"], 4.0, callback_url=server.url)
    assert redecide(source, strict, "--deliver", "all") == DONE
    assert len(server.received) == 2


def test_a_bucket_gets_an_object_beside_the_first_verdict(
    make_bucket: Any, s3_endpoint: str, settings: Any, strict: Path, tmp_path: Path
) -> None:
    bucket = make_bucket("again")
    settings(S3_ENDPOINT_URL=s3_endpoint, DELIVER_S3_BUCKETS="again")
    source = verdicts(tmp_path / "v.jsonl", ["a"], s3_uri="s3://again/team")
    day = verdict("a").submitted_at.date().isoformat()
    bucket.put_object(Key=f"team/results/v1/dt={day}/a.json", Body=b"first")
    assert redecide(source, strict, "--deliver") == DONE
    digest = Policy.load(str(strict)).ref.digest
    found = {item.key: item.get()["Body"].read() for item in bucket.objects.all()}
    assert found == {
        f"team/results/v1/dt={day}/a.json": b"first",
        f"team/redecided/v1/dt={day}/a/{digest}.json": (tmp_path / "out.jsonl").read_bytes().strip(),
    }


def test_a_file_of_requests_names_receivers_and_others_have_none(
    serve: Any, settings: Any, strict: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server, other = serve(ok), serve(ok)
    settings(server, other)
    source = verdicts(tmp_path / "v.jsonl", ["a"])
    verdicts(source, ["b", "c"], callback_url=other.url)
    verdicts(source, ["d"])
    (tmp_path / "r.csv").write_text(f"request_id,callback_url\na,{server.url}\nb,{server.url}\n")
    assert redecide(source, strict, "--deliver", "--requests", str(tmp_path / "r.csv")) == DONE
    # the file goes before what a verdict says itself
    assert {name.partition(":")[0] for name in ids(server)} == {"a", "b"}
    assert [name.partition(":")[0] for name in ids(other)] == ["c"]
    assert "1 have no receiver that is known" in capsys.readouterr().out


def test_only_what_a_policy_decided_is_decided_anew_if_asked_for(strict: Path, tmp_path: Path) -> None:
    source = tmp_path / "v.jsonl"
    made = [verdict(name, policy=Policy.load(name).ref) for name in ("default", "observe")]
    source.write_text("\n".join(item.model_dump_json() for item in made))
    assert redecide(source, strict, "--only-policy", "observe") == DONE
    [line] = (tmp_path / "out.jsonl").read_text().splitlines()
    assert Verdict.model_validate_json(line).request_id == "observe"


def test_rows_of_a_batch_are_decided_anew_but_not_delivered(
    settings: Any, strict: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.m3agiqa.report.test_judged import record

    settings()
    source = tmp_path / "b.jsonl"
    source.write_text(record(score=2.0).model_dump_json())
    assert redecide(source, strict) == DONE
    assert [row.decision for row in judged.read(tmp_path / "out.jsonl")] == [Decision.REJECT]
    assert redecide(source, strict, "--deliver") == FAILED
    assert "have no receivers" in capsys.readouterr().err


# --- what fails --------------------------------------------------------------------------------------------------


def test_a_receiver_that_fails_costs_its_neighbours_nothing_and_gets_the_rest_later(
    serve: Any, settings: Any, strict: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # given a receiver that is down, one that is well, one that is not allowed, and one that is no URL
    is_down = True
    down = serve(lambda request: request.reply(503 if is_down else 204))
    well, stranger = serve(ok), serve(ok)
    settings(down, well)
    source = verdicts(tmp_path / "v.jsonl", [f"down-{number}" for number in range(100)], callback_url=down.url)
    verdicts(source, [f"well-{number}" for number in range(100)], callback_url=well.url)
    verdicts(source, ["stranger"], callback_url=stranger.url)
    verdicts(source, ["odd"], callback_url="http://[")
    # when all is delivered
    assert redecide(source, strict, "--deliver") == FAILED
    # then the one that is well has everything, and the other was asked a few times
    assert len(well.received) == len(set(ids(well))) == 100
    assert len(down.received) < 100
    assert stranger.received == []
    said = capsys.readouterr().out
    assert "127.0.0.1: 101 failed" in said
    # and once it is up again, the same command delivers the rest and nothing twice
    is_down = False
    assert redecide(source, strict, "--deliver") == FAILED
    assert len(well.received) == 100
    assert {name.partition(":")[0] for name in ids(down)} == {f"down-{number}" for number in range(100)}


def test_what_stands_twice_among_the_verdicts_is_delivered_once(
    serve: Any, settings: Any, strict: Path, tmp_path: Path
) -> None:
    server = serve(ok)
    settings(server)
    source = verdicts(tmp_path / "v.jsonl", ["a", "a", "b"], callback_url=server.url)
    assert redecide(source, strict, "--deliver") == DONE
    assert len(server.received) == 2


def test_of_several_verdicts_of_a_request_the_latest_stands(
    serve: Any, settings: Any, strict: Path, tmp_path: Path
) -> None:
    # given requests that were tried anew: the later verdict of one flips, and the earlier one of the other
    server = serve(ok)
    settings(server)
    source = verdicts(tmp_path / "v.jsonl", ["flips", "stays"], 4.0, callback_url=server.url)
    verdicts(source, ["flips"], 2.0, callback_url=server.url)
    later = source.read_text().splitlines()
    earlier = json.loads(later[1]) | {"scored_at": "2026-01-01T00:00:00Z"}
    earlier["aspects"]["quality"]["score"] = 2.0
    source.write_text("\n".join([*later, json.dumps(earlier)]) + "\n")
    # then the receiver is told of the first alone
    assert redecide(source, strict, "--deliver") == DONE
    assert [name.partition(":")[0] for name in ids(server)] == ["flips"]


def test_a_record_of_another_policy_is_not_gone_on_with(
    serve: Any, settings: Any, strict: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = serve(ok)
    settings(server)
    source = verdicts(tmp_path / "v.jsonl", ["a"], callback_url=server.url)
    assert redecide(source, strict, "--deliver") == DONE
    strict.write_text(strict.read_text().replace("version: 1", "version: 2"))
    assert redecide(source, strict, "--deliver") == FAILED
    assert "name another --output" in capsys.readouterr().err
    # and a file that is none is left alone
    (tmp_path / "out.jsonl.delivered").write_text('{"a": 1}\n')
    assert redecide(source, strict, "--deliver") == FAILED
    assert (tmp_path / "out.jsonl.delivered").read_text() == '{"a": 1}\n'
    assert len(server.received) == 1


def test_a_run_that_is_killed_is_gone_on_with_and_nobody_gets_a_redecision_under_two_ids(
    serve: Any, settings: Any, strict: Path, tmp_path: Path
) -> None:
    # given a receiver in front of which a run is killed halfway, and again, each time with callbacks under way
    enough, lock, limit = threading.Event(), threading.Lock(), [50]

    def answer(request: Handler) -> None:
        with lock:
            halfway = len(server.received) >= limit[0]
        if halfway:
            enough.set()
            server.over.wait(0.1)
        request.reply(204)

    server = serve(answer)
    settings(server)
    names = [f"r-{number}" for number in range(200)]
    source = verdicts(tmp_path / "v.jsonl", names, callback_url=server.url)
    out = tmp_path / "out.jsonl"
    command = [sys.executable, "-m", "m3agiqa", "redecide", str(source), "--policy", str(strict), "-o", str(out)]
    for _ in range(2):
        process = subprocess.Popen([*command, "--deliver"], cwd=ROOT, env=dict(os.environ))
        assert enough.wait(PATIENCE_S)
        process.send_signal(signal.SIGKILL)
        assert process.wait(PATIENCE_S) == -signal.SIGKILL
        limit[0] += 50
        enough.clear()
    with (tmp_path / "out.jsonl.delivered").open("a") as file:
        file.write('{"request_id": "cut o')
    # when the same command runs to its end
    limit[0] = 10**9
    assert redecide(source, strict, "--deliver") == DONE
    # then everybody has a redecision, under one id and with one content
    bodies: dict[str, set[bytes]] = {}
    for request in server.received:
        if len(request.body) < int(request.headers["content-length"]):
            continue  # the kill cut it off
        bodies.setdefault(request.headers["webhook-id"], set()).add(request.body)
    digest = Policy.load(str(strict)).ref.digest
    assert set(bodies) == {f"{name}:{digest}" for name in names}
    assert {len(found) for found in bodies.values()} == {1}
    # and only what was under way at a kill came twice
    twice = [count for count in Counter(ids(server)).values() if count > 1]
    assert len(twice) <= 2 * 8
    assert len((tmp_path / "out.jsonl.delivered").read_text().splitlines()) == 201
