from __future__ import annotations

from pathlib import Path

import requests

from m3agiqa.report.judged import from_verdict
from tests.m3agiqa.report.page.test_build import data
from tests.support_verdicts import verdict
from worker.demo import report
from worker.demo.show import IMAGES, submissions


def test_the_page_shows_every_image_of_the_demo_and_says_which_are_bad(tmp_path: Path) -> None:
    # given a verdict for each image
    sent = submissions("127.0.0.1:8000")
    images = [from_verdict(verdict(item.name), image=item.image_url, prompt=item.prompt) for item in sent]
    # when the page is written, twice
    report.write(images, IMAGES, tmp_path / "page")
    index = report.write(images, IMAGES, tmp_path / "page")
    # then what ships with the project is to be seen, and the others are not
    _, items = data(index.parent)
    assert [item["prompt"] for item in items] == [item.prompt for item in sent]
    assert [item["id"] for item in items if "thumb" not in item] == [item.name for item in sent if "(" in item.name]


def test_the_page_is_served_as_long_as_the_demo_stays_up(tmp_path: Path) -> None:
    index = report.write([], IMAGES, tmp_path / "page")
    with report.served(index.parent) as address:
        assert address.startswith("http://127.0.0.1:")
        assert requests.get(address, timeout=10).text == index.read_text()
        assert requests.get(f"{address}app.js", timeout=10).headers["content-type"].startswith("text/javascript")
