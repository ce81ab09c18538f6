"""`m3agiqa-submit file`: tables and buckets, from strangers too."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from redis import Redis

from m3agiqa.client import Client
from m3agiqa.contract import ScoreRequest
from m3agiqa.errors import QueueUnavailable
from m3agiqa.queue import inbox, keys
from m3agiqa.queue.ledger import Ledger
from producers.cli import main
from tests.support import eventually, png

Output = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _redis_of_the_test(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("M3AGIQA_REDIS_URL", redis_url)


@pytest.fixture
def ledger(redis_url: str) -> Iterator[Ledger]:
    with closing(Ledger(redis_url)) as ledger:
        yield ledger


def requests(redis: Redis, priority: int = 3) -> list[ScoreRequest]:
    """The requests that wait in an inbox, the next one first."""
    return [inbox.parse(text, priority) for text in reversed(redis.lrange(keys.inbox(priority), 0, -1))]


def write(path: Path, *rows: tuple[str, ...]) -> str:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    return str(path)


def lines(path: Path, *items: Any) -> str:
    path.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    return str(path)


def parquet(path: Path, *rows: dict[str, Any]) -> str:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    return str(path)


A, B = {"image_url": "https://host/a.png", "prompt": "a"}, {"image_url": "https://host/b.png", "prompt": "b"}

#: Every field of the contract, as a program has it, and as a cell of a CSV has it.
WHOLE: dict[str, Any] = {
    "image_url": "s3://bucket/a b.png",
    "prompt": "two\nlines",
    "callback_url": "https://host/hook",
    "s3_uri": "s3://out/x",
    "aspects": ["quality", "authenticity"],
    "policy": "observe",
    "priority": 0,
    "request_id": "my-id",
    "metadata": {"user": 7, "tags": ["a"]},
    "submitted_at": "2026-11-01T00:00:00Z",
    "expires_at": "2026-12-01T00:00:00+01:00",
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "batch_id": "monday",
    "retry_failed": True,
    "tenant": "acme",
    "version": "1.3",
}
CELLS = {**WHOLE, "aspects": "quality; authenticity", "metadata": json.dumps(WHOLE["metadata"]), "retry_failed": "true"}


def test_every_field_of_the_contract_may_be_a_column(redis: Redis, tmp_path: Path) -> None:
    assert WHOLE.keys() == ScoreRequest.model_fields.keys()
    asked = ScoreRequest.parse(WHOLE)
    typed = {**WHOLE, "submitted_at": datetime(2026, 11, 1, tzinfo=UTC), "expires_at": asked.expires_at}
    files = [
        write(tmp_path / "a.csv", tuple(CELLS), tuple(map(str, CELLS.values()))),
        lines(tmp_path / "a.jsonl", WHOLE),
        parquet(tmp_path / "a.parquet", typed),
    ]
    for file in files:
        redis.flushall()
        assert main(["file", file]) == 0
        assert requests(redis, 0) == [asked]


def test_a_row_may_be_told_its_id(redis: Redis, ledger: Ledger, tmp_path: Path, capsys: Output) -> None:
    # given rows of which one is wrong
    file = lines(tmp_path / "a.jsonl", A, {"prompt": "no image"}, B)
    for _ in range(2):
        assert main(["file", file, "--json"]) == 1
        told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        # then each of the others says where it was, also when it is there already
        assert [one["where"] for one in told] == ["line 1", "line 3"]
        assert len({one["request_id"] for one in told}) == 2
        ledger.admit(3)


def test_ids_are_a_tenants_own(redis: Redis, ledger: Ledger, tmp_path: Path, capsys: Output) -> None:
    # given one id for two tenants, and one image of both
    rows = [
        {**A, "tenant": tenant, **more} for more in ({"request_id": "a", "prompt": "x"}, {}) for tenant in ("x", "y")
    ]
    rows[0]["prompt"] = "of x"
    file = lines(tmp_path / "a.jsonl", *rows)
    assert main(["file", file]) == 0
    first = capsys.readouterr().out.split()
    assert first[:2] == ["x/a", "y/a"]
    assert len(set(first)) == 4
    # when they are taken in and submitted again, then those named by their content are there
    ledger.admit(3)
    assert main(["file", file]) == 0
    output = capsys.readouterr()
    assert sorted(output.out.split()) == sorted(first)
    assert "2 rows were there already" in output.err


def test_options_are_for_rows_that_say_nothing_else(redis: Redis, tmp_path: Path, capsys: Output) -> None:
    file = lines(tmp_path / "a.jsonl", {**A, "policy": "observe", "priority": 9}, {"image_url": "https://host/b.png"})
    options = "--prompt cat --policy default --aspect quality --batch-id monday --callback-url https://host/hook"
    assert main(["file", file, *options.split(), "--s3-uri", "s3://out", "--expires-in", "60"]) == 0
    [second], [first] = requests(redis), requests(redis, 9)
    assert (first.prompt, first.policy, first.batch_id) == ("a", "observe", "monday")
    assert (second.prompt, second.policy, second.aspects) == ("cat", "default", ("quality",))
    assert (second.callback_url, second.s3_uri) == ("https://host/hook", "s3://out")
    assert second.expires_at is not None


@pytest.mark.parametrize("make", [lines, parquet, None])
def test_a_rerun_submits_what_is_not_there(
    make: Callable[..., str] | None, redis: Redis, ledger: Ledger, tmp_path: Path, capsys: Output
) -> None:
    def table(*rows: dict[str, str]) -> str:
        if make is None:
            return write(tmp_path / "a.csv", ("image_url", "prompt"), *[tuple(row.values()) for row in rows])
        return make(tmp_path / f"a.{make.__name__.replace('lines', 'jsonl')}", *rows)

    # given a table that was submitted, with a row that stands there twice, and taken in by a worker
    assert main(["file", table(A, A)]) == 0
    first, again = capsys.readouterr().out.split()
    assert first == again
    ledger.admit(3)
    assert redis.lrange("score:3", 0, -1) == [first]
    # when it is submitted again with another row, then that one alone is new
    assert main(["file", table(A, B)]) == 0
    output = capsys.readouterr()
    assert output.out.split()[0] == first
    assert [request.prompt for request in requests(redis)] == ["b"]
    assert "1 rows were there already" in output.err
    # and a rerun that tries failed ones anew leaves that to the workers
    assert main(["file", table(A, B), "--retry-failed"]) == 0
    assert [request.retry_failed for request in requests(redis)] == [None, True, True]


def test_a_run_that_broke_off_is_gone_on_with(
    redis: Redis, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    file = lines(tmp_path / "a.jsonl", *({**A, "prompt": f"{number}"} for number in range(450)))
    submit, calls = Client.submit_many, iter([None, QueueUnavailable("away")])

    def breaking(client: Client, some: Any) -> list[str]:
        if (error := next(calls, None)) is not None:
            raise error
        return submit(client, some)

    with monkeypatch.context() as patch:
        patch.setattr(Client, "submit_many", breaking)
        assert main(["file", file]) == 1
    assert "error: away" in capsys.readouterr().err
    while ledger.admit(3):
        pass
    assert main(["file", file]) == 0
    output = capsys.readouterr()
    assert len({*output.out.split()}) == 450
    assert "200 rows were there already" in output.err
    assert [request.prompt for request in requests(redis)] == [f"{number}" for number in range(200, 450)]


def test_bad_rows_are_written_to_a_file_with_reasons(redis: Redis, tmp_path: Path, capsys: Output) -> None:
    out = tmp_path / "rejected.jsonl"
    file = write(
        tmp_path / "a.csv", ("image_url", "prompt"), ("ftp://x", "secret"), ("https://host/a.png", "a"), ("b",)
    )
    assert main(["file", file, "--rejected", str(out)]) == 1
    first, second = map(json.loads, out.read_text().splitlines())
    assert first["where"] == "line 2"
    assert first["row"] == {"image_url": "ftp://x", "prompt": "secret"}
    assert "image_url: Value error, must start with" in first["reason"]
    assert second == {
        "where": "line 4",
        "reason": "it has 1 cell, and the first line names 2 columns; a cell that holds a comma needs quotes around it",
        "row": {},
    }
    error = capsys.readouterr().err
    assert "2 rows were not submitted" in error
    assert "line 2" not in error
    assert len(requests(redis)) == 1
    # and a table is not written over
    assert main(["file", file, "--rejected", file]) == 1
    assert "it is read as" in capsys.readouterr().err


def test_a_request_that_stands_for_another_costs_its_neighbours_nothing(
    client: Client, redis: Redis, ledger: Ledger, tmp_path: Path, capsys: Output
) -> None:
    # given an id that is taken
    client.submit(image_url="https://host/other.png", prompt="", request_id="taken")
    ledger.admit(3)
    # when a table has it for another image, and two images under one id
    rows = [{**A, "request_id": name, "prompt": name + prompt} for name, prompt in ["a1", "b1", "b2", "c1"]]
    rows.insert(2, {**A, "request_id": "taken"})
    assert main(["file", lines(tmp_path / "a.jsonl", *rows)]) == 1
    # then the others, and the first of two, are submitted, in order
    assert [request.prompt for request in requests(redis)] == ["a1", "b1", "c1"]
    output = capsys.readouterr()
    assert output.out.split() == ["a", "b", "c"]
    assert "line 3: request_id: another request stands under taken" in output.err
    assert "line 4: request_id: another row of this table has it" in output.err
    assert "2 rows were not submitted" in output.err


HOSTILE = {
    b'{"image_url": "https://host/x.png"}': "prompt: Field required",
    b"not JSON": "not JSON",
    b"[1]": "not a JSON object",
    b'{"image_url": "https://host/x.png", "prompt": "caf\xe9"}': "it is not in UTF-8",
    b'{"image_url": "https://host/x.png", "prompt": "\\ud800"}': "it holds half of a character",
    b'{"image_url": "https://host/x.png", "prompt": NaN}': "NaN is no number",
    b"[" * 100_000: "not JSON",
    b'{"image_url": "https://host/x.png", "prompt": "", "mood": 1}': "mood: Extra inputs",
    b'{"image_url": "https://host/x.png", "prompt": "", "priority": "0"}': "priority",
    b'{"image_url": "https://host/x.png", "prompt": "", "image": "/etc/passwd"}': "one of them names the image",
    b'{"image": "/etc/passwd", "prompt": ""}': "image: must be bytes",
    b'{"image_path": ["x"], "prompt": ""}': "must name a file beside",
    b'{"prompt": ""}': "image_url: Field required",
    b'{"image_url": "https://host/x.png", "prompt": "", "metadata": '
    + b'{"a":' * 40
    + b"1"
    + b"}" * 41: "nested deeper",
    b'{"image_url": "https://host/x.png", "prompt": "", "priority": ' + b"9" * 5_000 + b"}": "not JSON",
    b'{"prompt": "' + b"x" * 17_000_000: "it has 16777216 bytes or more",
}


@pytest.mark.parametrize("line", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_line_costs_its_neighbours_nothing(line: bytes, redis: Redis, tmp_path: Path, capsys: Output) -> None:
    file = tmp_path / "a.jsonl"
    around = [json.dumps(row).encode() for row in (A, B)]
    file.write_bytes(b"\xef\xbb\xbf" + around[0] + b"\r\n\n" + line + b"\n" + around[1])
    assert main(["file", str(file)]) == 1
    assert [request.prompt for request in requests(redis)] == ["a", "b"]
    error = capsys.readouterr().err
    assert "line 3: " in error
    assert HOSTILE[line] in error
    assert "1 rows were not submitted" in error


CELLS_OF_STRANGERS = {
    'https://host/x.png,"{",,': "metadata: not JSON",
    "https://host/x.png,[1],,": "metadata: Input should be",
    "https://host/x.png,,beauty,": "aspects",
    "https://host/x.png,,,x": "one of them names the image",
    f"https://host/{'x' * 200_000},,,": "a cell has more than 131072 characters",
    "https://host/x.png,\0,,": "it holds a NUL character",
}


@pytest.mark.parametrize("row", CELLS_OF_STRANGERS, ids=range(len(CELLS_OF_STRANGERS)))
def test_a_hostile_row_costs_its_neighbours_nothing(row: str, redis: Redis, tmp_path: Path, capsys: Output) -> None:
    file = tmp_path / "a.csv"
    good = "https://host/a.png,,,\n"
    file.write_text(f"image_url,metadata,aspects,image_path\n{good}{row}\n{good}", encoding="utf-8")
    assert main(["file", str(file), "--prompt", "a"]) == 1
    assert len(requests(redis)) == 2
    assert CELLS_OF_STRANGERS[row] in capsys.readouterr().err


def test_files_beside_a_table_are_uploaded_and_no_others(redis: Redis, tmp_path: Path, capsys: Output) -> None:
    # given a table beside some images, one of which leads away
    folder = tmp_path / "table"
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "a.png").write_bytes(png(1))
    (tmp_path / "secret").write_text("secret")
    (folder / "away.png").symlink_to(tmp_path / "secret")
    with (folder / "large.png").open("wb") as large:
        large.truncate(40 * 2**20)
    (folder / "medium.png").write_bytes(bytes(9 * 2**20))
    os.mkfifo(folder / "pipe.png")
    names = ["images/a.png", "../secret", "away.png", str(tmp_path / "secret"), "missing.png", "pipe.png", "images"]
    names += ["large.png", "medium.png", "x" * 300, "nul\0", ""]
    file = lines(folder / "a.jsonl", *({"image_path": name, "prompt": name} for name in names))
    # when it is submitted, then the first alone is
    assert main(["file", file]) == 1
    [request] = requests(redis)
    assert request.image_url == f"inline:{hashlib.sha256(png(1)).hexdigest()}"
    assert redis.hget(keys.image(request.request_id), "bytes") == str(len(png(1)))
    error = capsys.readouterr().err
    assert error.count("leads out of the table's folder") == 3
    assert "line 8: image_path: 41943040 bytes are more than" in error
    assert "line 9: image: 9437184 bytes are more than 8388608" in error
    assert "11 rows were not submitted" in error
    # and a rerun is safe
    assert main(["file", file]) == 1
    assert len({request.request_id for request in requests(redis)}) == 1


def test_a_parquet_file_may_hold_the_images(redis: Redis, tmp_path: Path, capsys: Output) -> None:
    out = tmp_path / "rejected"
    rows = [{"image": png(shade), "prompt": f"{shade}"} for shade in (1, 2)] + [{"image": None, "prompt": "none"}]
    rows += [{"image": png(3), "prompt": "x" * 9_000}]
    assert main(["file", parquet(tmp_path / "a.parquet", *rows), "--rejected", str(out)]) == 1
    assert [request.image_url for request in requests(redis)] == [
        f"inline:{hashlib.sha256(png(shade)).hexdigest()}" for shade in (1, 2)
    ]
    told = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(one["where"], one["row"]["image"]) for one in told] == [("row 3", None), ("row 4", f"{len(png(3))} bytes")]


def test_a_parquet_value_that_cannot_be_had_is_a_bad_row(redis: Redis, tmp_path: Path, capsys: Output) -> None:
    # given a text that is not UTF-8, and a time that no calendar has
    prompts = pyarrow.array([b"a", b"\xff", b"c"], pyarrow.binary()).view(pyarrow.string())
    times = pyarrow.array([None, None, 2**62], pyarrow.int64()).cast(pyarrow.timestamp("us", "UTC"))
    table = pyarrow.table({"image_url": ["https://host/a.png"] * 3, "prompt": prompts, "expires_at": times})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    assert main(["file", str(tmp_path / "a.parquet")]) == 1
    assert [request.prompt for request in requests(redis)] == ["a"]
    error = capsys.readouterr().err
    assert "row 2: it holds what cannot be read (UnicodeDecodeError)" in error
    assert "row 3: it holds what cannot be read (" in error


def test_a_damaged_parquet_file_is_told(redis: Redis, tmp_path: Path, capsys: Output) -> None:
    file = Path(parquet(tmp_path / "a.parquet", A))
    whole = file.read_bytes()
    for content, said in (
        (b"", "no Parquet file"),
        (whole[:-20], "no Parquet file"),
        (whole[:4] + bytes(60) + whole[64:], "is damaged"),
    ):
        file.write_bytes(content)
        assert main(["file", str(file)]) == 1
        assert said in capsys.readouterr().err
    assert main(["file", parquet(file, {**A, "mood": 1})]) == 1
    assert "and has mood" in capsys.readouterr().err
    assert main(["file", "/dev/null", "--format", "parquet"]) == 1
    assert "no file" in capsys.readouterr().err
    assert redis.keys() == []


def test_damage_costs_a_group_of_rows_and_no_other(redis: Redis, tmp_path: Path, capsys: Output) -> None:
    # given a file of three groups of rows, of which the second one is damaged
    rows = [{**A, "prompt": f"a long prompt {number}"} for number in range(300)]
    file = tmp_path / "a.parquet"
    table = pyarrow.Table.from_pylist(rows)
    pyarrow.parquet.write_table(table, file, row_group_size=100, compression="none", use_dictionary=False)
    content = file.read_bytes()
    at = content.index(b"a long prompt 100") - 100
    file.write_bytes(content[:at] + bytes(200) + content[at + 200 :])
    # then the others are submitted
    assert main(["file", str(file)]) == 1
    assert "rows 101 to 200: the file is damaged there (OSError)" in capsys.readouterr().err
    assert [request.prompt for request in requests(redis)] == [row["prompt"] for row in [*rows[:100], *rows[200:]]]


def test_who_lacks_pyarrow_is_told_what_to_install(
    tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert main(["file", str(tmp_path / "a.parquet")]) == 1
    assert "m3agiqa[parquet]" in capsys.readouterr().err


@pytest.fixture
def bucket(make_bucket: Callable[[str], Any], s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("M3AGIQA_S3_ENDPOINT_URL", s3_endpoint)
    return make_bucket("generated")


def test_images_of_a_bucket_have_their_prompts_beside_them(bucket: Any, redis: Redis, capsys: Output) -> None:
    # given images with prompts as text, as fields, in both, and in neither, and other files
    for key, body in {
        "day/a.png": b"",
        "day/a.txt": "café\n".encode(),
        "day/b b.JPG": b"",
        "day/b b.json": b'{"prompt": "b", "priority": 9, "request_id": "b", "metadata": {"seed": 1}}',
        "day/c.webp": b"",
        "day/c.json": b'{"prompt": "c"}',
        "day/c.txt": b"other",
        "day/d.png": b"",
        "day/e.png": b"",
        "day/e.json": b'{"prompt": "e", "image_url": "https://elsewhere/e.png"}',
        "day/f.png": b"",
        "day/f.json": b"[]",
        "day/g.png": b"",
        "day/g.txt": b"\xff",
        "day/h.png": b"",
        "day/h.txt": b"x" * 200_000,
        "day/readme.txt": b"",
        "day/.png/": b"",
        "other/a.png": b"",
    }.items():
        bucket.put_object(Key=key, Body=body)
    # when they are submitted
    assert main(["file", "s3://generated/day/"]) == 1
    # then those with a prompt are
    assert [(request.image_url, request.prompt) for request in requests(redis)] == [
        ("s3://generated/day/a.png", "café"),
        ("s3://generated/day/c.webp", "c"),
    ]
    [b] = requests(redis, 9)
    assert (b.image_url, b.prompt, b.request_id, b.metadata) == ("s3://generated/day/b b.JPG", "b", "b", {"seed": 1})
    error = capsys.readouterr().err
    for said in (
        "s3://generated/day/d.png: prompt: Field required",
        "day/e.json: it names an image itself, as image_url",
        "day/f.json: not a JSON object",
        "day/g.txt: it is not in UTF-8",
        "day/h.txt: it has more than",
    ):
        assert said in error
    # and with a prompt for the others, one more
    assert main(["file", "s3://generated/day/", "--prompt", "any"]) == 1
    assert [request.prompt for request in requests(redis)] == ["café", "c", "café", "c", "any"]


@pytest.mark.parametrize(("place", "said"), [("s3://missing/x", "answered NoSuchBucket"), ("s3://", "names no bucket")])
@pytest.mark.usefixtures("bucket")
def test_a_bucket_that_is_not_there_is_told(place: str, said: str, capsys: Output) -> None:
    assert main(["file", place]) in (1, 2)
    assert said in capsys.readouterr().err


def test_a_bucket_that_cannot_be_reached_is_told(
    aws: None, unused_port: int, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    monkeypatch.setenv("M3AGIQA_S3_ENDPOINT_URL", f"http://127.0.0.1:{unused_port}")
    assert main(["file", "s3://generated/x"]) == 1
    assert "cannot be listed (EndpointConnectionError)" in capsys.readouterr().err
    assert main(["file", "s3://generated/x", "--format", "csv"]) == 2


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
    # then the good rows are in the inbox, and the bad ones are named with their lines
    assert [request.request_id for request in (*requests(redis), *requests(redis, 9))] == ["first", "third"]
    output = capsys.readouterr()
    assert output.out.split() == ["first", "third"]
    assert "line 4: image_url" in output.err
    assert "line 6: priority" in output.err
    assert "line 7: it has 2 cells" in output.err
    assert "3 rows were not submitted" in output.err
    assert "secret" not in output.err


def test_a_csv_as_a_spreadsheet_writes_it(redis: Redis, tmp_path: Path, capsys: Output) -> None:
    # given semicolons, capitals, a byte order mark, a quote that is not closed, and a byte of another encoding
    lines = ("Image_URL ; Prompt", "https://host/a.png;a, b", 'https://host/b.png;"open', "https://host/c.png;c")
    file = tmp_path / "a.csv"
    file.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode() + b"\r\nhttps://host/d.png;caf\xe9\r\n")
    # when it is submitted, then the rows that are sound are in the inbox, and the others named
    assert main(["csv", str(file)]) == 1
    assert [request.prompt for request in requests(redis)] == ["a, b", "c"]
    error = capsys.readouterr().err
    assert "line 3: its quotes do not match" in error
    assert "line 5: it is not in UTF-8" in error
    assert "2 rows were not submitted" in error


def test_a_csv_from_a_pipe(redis: Redis, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=("image_url,prompt\nhttps://host/a.png,p\n",))
    writer.start()
    assert main(["csv", str(pipe)]) == 0
    writer.join()
    assert len(requests(redis)) == 1


def test_a_csv_longer_than_a_chunk(redis: Redis, tmp_path: Path, capsys: Output) -> None:
    rows = [("https://host/a.png", "p", f"r{number}") for number in range(450)]
    assert main(["csv", write(tmp_path / "a.csv", ("image_url", "prompt", "request_id"), *rows)]) == 0
    assert capsys.readouterr().out.split() == [f"r{number}" for number in range(450)]
    assert len(requests(redis)) == 450


def test_a_csv_waits_while_the_queue_is_full(redis: Redis, tmp_path: Path, capsys: Output) -> None:
    # given room for two requests, and somebody who takes some away once it is full
    def consume() -> None:
        eventually(lambda: redis.llen(keys.inbox(3)) == 2, "the queue is full")
        redis.delete(keys.inbox(3))

    rows = [("https://host/a.png", "p", name) for name in ("a", "b", "c")]
    file = write(tmp_path / "a.csv", ("image_url", "prompt", "request_id"), *rows)
    consumer = threading.Thread(target=consume)
    consumer.start()
    # when three are submitted, then all are in the end
    assert main(["--max-queued", "2", "csv", file]) == 0
    consumer.join()
    output = capsys.readouterr()
    assert output.out.split() == ["a", "b", "c"]
    assert "the queue is full" in output.err
    assert [request.request_id for request in requests(redis)] == ["c"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"image_url,caption\n", "columns"),
        (b"", "columns"),
        (b"\xffimage_url,prompt\n", "UTF-8"),
        (b"image_url,prompt,mood\n", "and has mood"),
        (None, "No such file"),
    ],
    ids=["columns", "empty", "encoding", "unknown", "missing"],
)
def test_a_file_that_is_no_such_csv(content: bytes | None, said: str, tmp_path: Path, capsys: Output) -> None:
    if content is not None:
        (tmp_path / "a.csv").write_bytes(content)
    assert main(["csv", str(tmp_path / "a.csv")]) == 1
    assert said in capsys.readouterr().err
