from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from m3agiqa.policy import Policy
from m3agiqa.report.judged import Judged
from m3agiqa.report.page.build import Page, build
from tests.m3agiqa import chromium
from tests.m3agiqa.report.page.samples import plain

#: Opens the page of some images from the disk.
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium. While it is there, its event loop runs, and no other may: so for one module alone."""
    program = chromium.find()
    if program is None:
        pytest.skip("no Chromium on this machine")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as driver:
        launched = driver.chromium.launch(executable_path=program)
        yield launched
        launched.close()


@pytest.fixture
def open_page(browser: Any, tmp_path: Path) -> Iterator[Open]:
    """Opens pages of verdicts; none of them may log an error or ask the network for anything."""
    contexts = []
    complaints: list[str] = []

    def opened(
        images: list[Judged], *, find: Any = plain, hash_: str = "", size: tuple[int, int] = (1280, 860), **more: Any
    ) -> Any:
        page = Page(**({"policy": Policy.load("default"), "labels": 20} | more))
        index = build(images, tmp_path / "report", page, find)
        context = browser.new_context(viewport={"width": size[0], "height": size[1]}, accept_downloads=True)
        contexts.append(context)
        tab = context.new_page()
        tab.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on(
            "request",
            lambda request: None if request.url.startswith(("file:", "blob:")) else complaints.append(request.url),
        )
        tab.goto(index.as_uri() + hash_)
        return tab

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []
