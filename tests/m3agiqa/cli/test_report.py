"""`m3agiqa report` from what it is given to the folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from m3agiqa.cli import main
from m3agiqa.contract import Decision, ImageInfo
from tests.m3agiqa.report.page.test_build import data
from tests.support import Web, png
from tests.support_verdicts import verdict


def verdicts(path: Path, *names: str) -> Path:
    path.write_text("".join(verdict(name).model_dump_json() + "\n" for name in names), encoding="utf-8")
    return path


def requests(path: Path, **urls: str) -> Path:
    path.write_text(
        "".join(
            json.dumps({"request_id": name, "image_url": url, "prompt": f"prompt of {name}"}) + "\n"
            for name, url in urls.items()
        ),
        encoding="utf-8",
    )
    return path


def test_a_page_of_a_file_with_images_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # given verdicts, what was submitted, and a folder with one of the images
    source = verdicts(tmp_path / "v.jsonl", "one", "two")
    asked = requests(tmp_path / "r.jsonl", one="https://images.example/a.png", two="https://images.example/b.png")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(png())
    # when a page is written of them
    arguments = ["report", source, "-o", tmp_path / "page", "--requests", asked, "--images", tmp_path / "images"]
    assert main([str(word) for word in [*arguments, "--title", "Ours", "--policy", "observe"]]) == 0
    # then it has them
    assert capsys.readouterr().out == f"{tmp_path / 'page' / 'index.html'}\n"
    about, items = data(tmp_path / "page")
    assert (about["title"], about["policy"]["name"]) == ("Ours", "observe")
    assert [item["prompt"] for item in items] == ["prompt of one", "prompt of two"]
    assert ["thumb" in item for item in items] == [True, False]


def test_images_are_fetched_within_a_workers_guards(
    tmp_path: Path, web: Web, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # given an image that a worker may fetch, one that is none, one that is gone, and one where no worker may go
    monkeypatch.setenv("M3AGIQA_FETCH_ALLOW_HOSTS", web.endpoint)
    web.images["text.png"] = b"a text"
    web.answers["gone.png"] = [404]
    urls = {
        "good": web.url("good.png"),
        "text": web.url("text.png"),
        "gone": web.url("gone.png"),
        "private": "http://127.0.0.1:1/latest/meta-data",
    }
    source = verdicts(tmp_path / "v.jsonl", *urls, "untold")
    asked = requests(tmp_path / "r.jsonl", **urls)
    # when a page is written
    assert main(["report", str(source), "-o", str(tmp_path / "page"), "--requests", str(asked), "--fetch"]) == 0
    # then each image is there, or the words why not
    items = {item["id"]: item for item in data(tmp_path / "page")[1]}
    assert "thumb" in items["good"]
    assert "answered 404" in items["gone"]["why"]
    assert "not" in items["private"]["why"]
    assert "image" in items["text"]["why"]
    assert items["untold"]["why"] == "the source tells no address of the image"
    assert all("thumb" not in items[name] for name in ("text", "gone", "private", "untold"))


def test_another_image_at_the_same_address_is_not_shown(
    tmp_path: Path, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("M3AGIQA_FETCH_ALLOW_HOSTS", web.endpoint)
    judged = ImageInfo(sha256="0" * 64, width=16, height=16, format="PNG")
    text = verdict("a").model_copy(update={"image": judged}).model_dump_json()
    (tmp_path / "v.jsonl").write_text(text)
    asked = requests(tmp_path / "r.jsonl", a=web.url("a.png"))
    arguments = ["report", str(tmp_path / "v.jsonl"), "-o", str(tmp_path / "page"), "--requests", str(asked)]
    assert main([*arguments, "--fetch"]) == 0
    assert data(tmp_path / "page")[1][0]["why"] == "another image is at this address now"


def test_what_batch_wrote_is_a_source(tmp_path: Path) -> None:
    row = {
        **{"image_path": "images/a.png", "prompt": "a", "aspect": "quality", "description": "fine", "score": 1.0},
        **{"rating": "poor", "error": None, "decision": Decision.REJECT, "reasons": ["quality 1.00 < 1.50"]},
        **{"aspects": ["quality"], "model": "mini@0", "policy": "default@0", "image_sha256": None},
    }
    (tmp_path / "v.json").write_text(json.dumps([row]))
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(png())
    arguments = ["report", str(tmp_path / "v.json"), "-o", str(tmp_path / "page"), "--images", str(tmp_path)]
    assert main(arguments) == 0
    [item] = data(tmp_path / "page")[1]
    assert (item["id"], item["decision"], item["scores"]) == (
        "images/a.png",
        "reject",
        {"quality": [1.0, "poor", "fine"]},
    )
    assert "thumb" in item


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--images", "none"], 2, "none is no folder"),
        (["--policy", "none"], 1, "none"),
        (["--images", ".", "--fetch"], 2, "not allowed with"),
        (["--labels", "0"], 2, "whole number"),
    ],
)
def test_wrong_usage_is_told(
    words: list[str], code: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = verdicts(tmp_path / "v.jsonl", "one")
    try:
        ended = main(["report", str(source), "-o", str(tmp_path / "page"), *words])
    except SystemExit as error:
        ended = error.code
    assert ended == code
    assert said in capsys.readouterr().err
    assert not (tmp_path / "page").exists()
