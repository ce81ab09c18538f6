from __future__ import annotations

from pathlib import Path

import pytest

from m3agiqa.errors import DataError
from m3agiqa.report import submitted
from m3agiqa.report.submitted import Submitted

URL = "https://images.example/a.png"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("r.csv", f'image_url,prompt,callback_url,priority,request_id\n{URL},"a, cat",https://h.example/v,3,a-1\n'),
        (
            "r.jsonl",
            f'{{"image_url": "{URL}", "prompt": "a, cat", "callback_url": "https://h.example/v", "request_id": "a-1"}}',
        ),
    ],
)
def test_requests_are_known_by_their_ids(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    known = Submitted(request_id="a-1", image_url=URL, prompt="a, cat", callback_url="https://h.example/v")
    assert submitted.read(tmp_path / name) == {"a-1": known}


def test_an_empty_cell_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("request_id,image_url,s3_uri\na,,\n")
    assert submitted.read(tmp_path / "r.csv") == {"a": Submitted(request_id="a")}


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("r.csv", "image_url,prompt\nx,y\n", "must have the columns request_id"),
        ("r.csv", "request_id,image_url\na\n", "line 2: it has 1 cell"),
        ("r.csv", "request_id,callback_url\na,ftp://x/\n", "line 2: no request with an id: callback_url"),
        ("r.jsonl", f'{{"image_url": "{URL}"}}', "line 1: no request with an id: request_id"),
        ("r.jsonl", '{"request_id": "../a"}', "line 1: no request with an id: request_id"),
    ],
)
def test_what_is_no_request_is_placed(tmp_path: Path, name: str, text: str, words: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=words):
        submitted.read(tmp_path / name)
