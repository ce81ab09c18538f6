from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from m3agiqa.contract import Aspect
from m3agiqa.deciding import redecided
from m3agiqa.errors import FetchForbidden, OutputError
from m3agiqa.policy import Policy, Thresholds
from m3agiqa.report.judged import Judged, from_verdict
from m3agiqa.report.page.build import CHUNK, Page, build
from tests.m3agiqa.report.page.samples import STATIC, judged, many, plain
from tests.support_verdicts import scored, verdict

POLICY = Policy.load("default")


def data(folder: Path) -> tuple[dict, list[dict]]:
    """The page's facts and its images, as its scripts get them, in their order."""
    names = re.findall(r'<script defer src="(data/\w+\.js)">', (folder / "index.html").read_text())
    about, *chunks = [
        json.loads(json.loads((folder / name).read_text().removeprefix("Data.take(").removesuffix(");\n")))
        for name in names
    ]
    return about, [item for chunk in chunks for item in chunk]


def test_a_page_has_every_image_in_its_order_in_several_files(tmp_path: Path) -> None:
    images = many(2 * CHUNK + 1, POLICY)
    index = build(images, tmp_path / "new" / "page", Page(POLICY, "Ours", seed=5))
    about, items = data(index.parent)
    assert [item["id"] for item in items] == [image.id for image in images]
    assert (about["title"], about["count"], about["seed"]) == ("Ours", len(images), 5)
    assert about["policy"]["digest"] == POLICY.ref.digest
    assert len(list((index.parent / "data").iterdir())) == 4


def test_a_page_holds_no_word_of_a_stranger_outside_its_data(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script>\u2028"
    index = build([judged(evil, prompt=evil)], tmp_path, Page(POLICY, evil))
    assert "alert" not in index.read_text()
    [file] = (tmp_path / "data").glob("0*.js")
    assert file.read_text().isascii()
    assert data(tmp_path)[1][0]["prompt"] == evil


def test_an_image_has_a_thumbnail_or_the_words_why_not(tmp_path: Path) -> None:
    def find(image: Judged) -> object:
        if image.id == "b":
            raise FetchForbidden("10.0.0.1 is not a public address")
        return plain(image)

    build([judged("a"), judged("b")], tmp_path, Page(POLICY), find)
    first, second = data(tmp_path)[1]
    assert (tmp_path / first["thumb"]).read_bytes().startswith(b"RIFF")
    assert "why" not in first
    assert second["why"] == "10.0.0.1 is not a public address"
    assert "thumb" not in second


def test_only_what_can_be_looked_at_is_proposed_and_each_id_once(tmp_path: Path) -> None:
    def find(image: Judged) -> object:
        if image.id == "unseen":
            raise FetchForbidden("no")
        return plain(image)

    build(
        [judged("a"), judged("a"), judged("unseen"), judged("failed", None)], tmp_path, Page(POLICY, labels=100), find
    )
    assert [item.get("plan") for item in data(tmp_path)[1]] == [["random", 1.0, 0], None, None, None]


def test_a_page_is_written_anew_over_an_earlier_one_and_leaves_nothing_of_it(tmp_path: Path) -> None:
    build(many(CHUNK + 1, POLICY), tmp_path, Page(POLICY), plain)
    build([judged("only")], tmp_path, Page(POLICY))
    assert [item["id"] for item in data(tmp_path)[1]] == ["only"]
    assert list((tmp_path / "thumbs").iterdir()) == []


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "ours.js").touch()
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(OutputError, match=r"thesis\.txt"):
        build([], tmp_path, Page(POLICY))
    assert (tmp_path / "data" / "ours.js").exists()


def test_an_empty_page_is_a_page(tmp_path: Path) -> None:
    assert data(build([], tmp_path, Page(POLICY)).parent)[1] == []


def test_the_page_makes_no_html_of_strings() -> None:
    scripts = {file.name: file.read_text() for file in STATIC.iterdir() if file.name.endswith(".js")}
    assert {"app.js", "card.js", "decide.js"} <= scripts.keys()
    forbidden = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|DOMParser|srcdoc|fetch\("
    for name, text in scripts.items():
        assert not re.search(forbidden, text), name
        assert len(text.splitlines()) < 300, name


def test_an_image_that_was_decided_anew_shows_what_held_before(tmp_path: Path) -> None:
    # given a verdict of the default policy, which another one decides anew
    accepted = verdict("r", aspects=scored(quality=2.7))
    strict = Policy(name="strict", version=1, aspects={Aspect.QUALITY: Thresholds(reject_below=3, review_below=3)})
    anew = redecided(accepted, strict, datetime.now(UTC))
    # when a page of it is written
    build([from_verdict(anew)], tmp_path / "page", Page(strict, "Flips"))
    # then the page can show that it was accepted, and what the policy says now
    [row] = data(tmp_path / "page")[1]
    assert (row["decision"], anew.decision) == ("accept", "reject")
