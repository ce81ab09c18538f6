from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from m3agiqa import jsonl
from m3agiqa.batch import Record
from m3agiqa.contract import Aspect, Decision, Failure, ImageInfo, PolicyRef, Rating
from m3agiqa.errors import DataError
from m3agiqa.report import judged
from tests.support_verdicts import scored, verdict

QUALITY, CORRESPONDENCE, _ = Aspect


def record(**fields: Any) -> Record:
    made = {
        "image_path": "a.png",
        "prompt": "a cat",
        "aspect": QUALITY,
        "description": "sharp",
        "score": 3.5,
        "rating": Rating.GOOD,
        "error": None,
        "decision": Decision.REVIEW,
        "reasons": ("why",),
        "aspects": (QUALITY, CORRESPONDENCE),
        "model": "mini@1",
        "policy": "default@2",
        "image_sha256": "ab",
    }
    return Record(**{**made, **fields})


def write(path: Path, items: list[Any], *, as_list: bool = False) -> Path:
    parts = [item.model_dump(mode="json") for item in items]
    path.write_text(json.dumps(parts, indent=2) if as_list else jsonl.dump(parts), encoding="utf-8")
    return path


@pytest.mark.parametrize("as_list", [False, True])
def test_verdicts_are_read_from_lines_and_from_a_list(tmp_path: Path, as_list: bool) -> None:
    # given verdicts, the last of which failed
    failure = Failure(code="fetch_refused", message="404", retryable=False)
    made = [
        verdict(
            "a",
            aspects=scored(quality=3.5),
            policy=PolicyRef(name="default", version=2, digest="abc"),
            image=ImageInfo(sha256="ab", width=1, height=1, format="PNG"),
            reasons=("why",),
        ),
        verdict("b", status="failed", decision=Decision.REVIEW, error=failure),
    ]
    # when their file is read
    first, last = judged.read(write(tmp_path / "v.json", made, as_list=as_list))
    # then each says what its verdict does
    assert (first.id, first.decision, first.reasons, first.policy) == ("a", Decision.ACCEPT, ("why",), "default@abc")
    assert (first.scores[QUALITY].score, first.image_sha256, first.failure) == (3.5, "ab", None)
    assert (last.id, last.scores, last.failure, last.verdict) == ("b", {}, failure, made[1])


@pytest.mark.parametrize("as_list", [False, True])
def test_rows_of_a_batch_are_put_together_by_image(tmp_path: Path, as_list: bool) -> None:
    # given an image of two aspects, twice in a row, of which one failed the second time, and another image
    failed = {"score": None, "rating": None, "description": None, "error": "out_of_memory: too large: 9"}
    rows = [
        record(),
        record(aspect=CORRESPONDENCE, score=1.0, rating=Rating.POOR),
        record(),
        record(aspect=CORRESPONDENCE, **failed),
        record(image_path="b.png", aspects=(QUALITY,)),
    ]
    # when the file is read
    first, second, other = judged.read(write(tmp_path / "b.json", rows, as_list=as_list))
    # then there are three images
    assert {aspect: score.score for aspect, score in first.scores.items()} == {QUALITY: 3.5, CORRESPONDENCE: 1.0}
    assert (first.id, first.image, first.prompt, first.failure) == ("a.png", "a.png", "a cat", None)
    assert (first.model, first.policy, first.image_sha256) == ("mini@1", "default@2", "ab")
    assert list(second.scores) == [QUALITY]
    assert second.failure == Failure(code="out_of_memory", message="too large: 9", retryable=False)
    assert (other.id, list(other.scores)) == ("b.png", [QUALITY])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ('{"request_id": 7}', "line 1: neither a verdict nor a row"),
        ('{"image_path": "a.png"}', "line 1: neither a verdict nor a row"),
        (jsonl.dump([record(score=7).model_dump(mode="json")]), "line 1: score: .*less than or equal to 5"),
    ],
)
def test_what_is_neither_is_placed(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "v.jsonl").write_text(text)
    with pytest.raises(DataError, match=words):
        list(judged.read(tmp_path / "v.jsonl"))


def test_a_row_that_names_no_aspects_stands_alone(tmp_path: Path) -> None:
    found = list(judged.read(write(tmp_path / "b.json", [record(aspects=()), record(aspects=())])))
    assert [len(item.scores) for item in found] == [1, 1]


def test_an_empty_list_has_no_images(tmp_path: Path) -> None:
    (tmp_path / "v.json").write_text("[]")
    assert list(judged.read(tmp_path / "v.json")) == []


def test_lines_are_not_kept(tmp_path: Path) -> None:
    # given a file of 10 MB
    line = verdict("a", reasons=("x" * 10_000,)).model_dump_json() + "\n"
    (tmp_path / "v.jsonl").write_text(line * 1_000)
    # when it is read one by one
    tracemalloc.start()
    count = sum(1 for _ in judged.read(tmp_path / "v.jsonl"))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # then a small part of it was in memory at a time
    assert (count, most < 1_000_000) == (1_000, True)
