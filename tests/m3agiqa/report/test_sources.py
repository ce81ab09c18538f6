from __future__ import annotations

from pathlib import Path

import pytest
from redis import Redis

from m3agiqa.errors import ConfigError, DataError, QueueUnavailable
from m3agiqa.queue import keys
from m3agiqa.report.sources import judged
from tests.support_verdicts import verdict


def test_a_file_is_a_source(tmp_path: Path) -> None:
    (tmp_path / "v.jsonl").write_text(verdict("a").model_dump_json())
    assert [item.id for item in judged(str(tmp_path / "v.jsonl"))] == ["a"]
    with pytest.raises(DataError, match="No such file"):
        list(judged(str(tmp_path / "none.jsonl")))


def test_redis_is_a_source_of_what_it_still_keeps(
    redis: Redis, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    # given two verdicts in Redis, and something else under the key of a third
    for name, text in {"a": verdict("a").model_dump_json(), "b": verdict("b").model_dump_json(), "c": "?"}.items():
        redis.set(keys.result(name), text)
    # then the two are found, and the third has a word
    assert {item.id for item in judged(redis_url)} == {"a", "b"}
    assert "cannot be read, and is left out" in caplog.text


def test_redis_in_the_namespace_of_the_environment_is_a_source(
    redis: Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    redis.set(f"team:{keys.result('a')}", verdict("a").model_dump_json())
    assert list(judged(redis_url)) == []
    monkeypatch.setenv("M3AGIQA_NAMESPACE", "team")
    assert [item.id for item in judged(redis_url)] == ["a"]


def test_a_redis_that_is_not_there_is_an_error(unused_port: int) -> None:
    with pytest.raises(QueueUnavailable):
        list(judged(f"redis://127.0.0.1:{unused_port}/0"))
    with pytest.raises(ConfigError):
        list(judged("redis://"))


def test_requests_tell_image_and_prompt(tmp_path: Path) -> None:
    (tmp_path / "v.jsonl").write_text("".join(verdict(name).model_dump_json() + "\n" for name in ("a", "b")))
    (tmp_path / "r.csv").write_text("request_id,image_url,prompt\na,https://images.example/a.png,a cat\n")
    first, last = judged(str(tmp_path / "v.jsonl"), tmp_path / "r.csv")
    assert (first.image, first.prompt) == ("https://images.example/a.png", "a cat")
    assert (last.image, last.prompt) == (None, None)
