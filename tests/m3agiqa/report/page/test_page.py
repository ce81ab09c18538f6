"""The page in a real Chromium, opened from the disk as a person does."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from m3agiqa.contract import Aspect
from m3agiqa.policy import Policy, Thresholds
from m3agiqa.report.page.build import Page, build
from m3agiqa.report.page.thumbnails import nowhere
from tests.m3agiqa.report.page.samples import judged, many, plain, scored
from tests.support import eventually

POLICY = Policy.load("default")
#: Where axe-core lies: `npm install --prefix FOLDER axe-core`, and AXE=FOLDER/node_modules/axe-core/axe.min.js.
AXE = Path(os.environ.get("AXE", "node_modules/axe-core/axe.min.js"))

HOSTILE = [
    "<script>window.broken = 1</script><img src=x onerror='window.broken = 1'>",
    "\"'`&lt;</title></script>--><!--",
    "word " * 2000,
    "W" * 10_000,
    "\u202eمرحبا بالعالم שלום \u2066",
    "👩‍👩‍👧‍👦🏳️‍🌈" * 30,
    "{{constructor.constructor('window.broken = 1')()}} ${window.broken = 1}",
    "",
]

Open = Callable[..., Any]


def strangers() -> list:
    """Images all of whose texts a stranger chose."""
    return [
        judged(
            f"{number}{text[:100]}",
            prompt=text,
            image=f"{text[:50]}'\"<b>.png",
            scores={aspect: scored(2.0 + number / 10, text) for aspect in Aspect},
            reasons=(text,),
            model=text[:200],
            policy=text[:200],
        )
        for number, text in enumerate(HOSTILE)
    ]


def until(tab: Any, expression: str) -> None:
    """Wait until JavaScript is true. Playwright's own way has the page itself evaluate a string."""
    eventually(lambda: tab.evaluate(expression), expression)


def texts(tab: Any, selector: str) -> list[str]:
    return tab.locator(selector).all_text_contents()


@pytest.mark.parametrize("size", [(1280, 860), (1024, 800), (390, 844)])
def test_what_strangers_wrote_stands_there_and_does_nothing(open_page: Open, size: tuple[int, int]) -> None:
    tab = open_page(strangers(), title=HOSTILE[0], size=size)
    # then each prompt is text, in the list and in the dialog
    assert tab.evaluate("window.broken") is None
    assert tab.title() == HOSTILE[0]
    for index, text in enumerate(HOSTILE):
        tab.locator(".card .open").nth(0).focus()
        for _ in range(index):
            tab.keyboard.press("j")
        tab.keyboard.press("Enter")
        assert tab.locator("#detail .prompt").text_content() == (text or "(an empty prompt)")
        if text:
            assert tab.locator("#detail .written").first.text_content() == text
        # and the page is no wider than the window
        assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
        tab.keyboard.press("Escape")
        for _ in range(index):
            tab.keyboard.press("k")
    assert tab.locator("#list script, #list b, #detail script, #detail b").count() == 0
    assert tab.evaluate("window.broken") is None


def test_the_policy_of_the_page_keeps_out_what_is_not_its_own(browser: Any, tmp_path: Path) -> None:
    index = build([judged("a")], tmp_path, Page(POLICY), plain)
    tab = browser.new_page()
    tab.goto(index.as_uri())
    # when something that got in tries HTML from a string, a script in the page, a stranger's image, a request
    tried = tab.evaluate(
        """async () => {
        const seen = [];
        document.addEventListener("securitypolicyviolation", (event) => seen.push(event.effectiveDirective));
        try { document.body.innerHTML += "<b>"; } catch { seen.push("no html"); }
        const script = document.createElement("script");
        try { script.text = "window.broken = 1"; } catch { seen.push("no script"); }
        document.body.append(script);
        const image = document.createElement("img");
        image.src = "http://127.0.0.1:9/x.png";
        document.body.append(image);
        try { await fetch("http://127.0.0.1:9/"); } catch { seen.push("no fetch"); }
        // DevTools may evaluate strings, and what they start at once may, too; a timer may not.
        await new Promise((done) => setTimeout(() => {
            try { eval("window.broken = 1"); } catch { seen.push("no eval"); }
            done();
        }, 200));
        return [seen, window.broken ?? null];
    }"""
    )
    # then nothing of it happens
    assert {"no html", "no script", "no fetch", "no eval", "img-src", "connect-src"} <= set(tried[0])
    assert tried[1] is None
    tab.close()


def test_a_slider_shows_at_once_what_would_be_decided_and_which_images_flip(open_page: Open) -> None:
    images = many(200, POLICY)
    tab = open_page(images)
    stricter = Policy.model_validate(
        POLICY.model_dump()
        | {"aspects": {**POLICY.model_dump()["aspects"], "quality": {"reject_below": 3, "review_below": 3}}}
    )
    # when the threshold for quality goes up
    tab.get_by_label("quality: reject below").fill("3")
    # then the numbers are those of the policy
    decisions = [stricter.decide(image.scores, tuple(Aspect), image.failure)[0] for image in images]
    counts = [decisions.count(decision) for decision in ("accept", "review", "reject")]
    until(tab, "document.querySelector('.total.reject .change').textContent !== ''")
    assert [int(text) for text in texts(tab, ".total .number")] == counts
    assert tab.get_by_label("quality: review below").input_value() == "3"
    # and those that flip can be looked at
    flipped = sum(after != image.decision for after, image in zip(decisions, images, strict=True))
    tab.get_by_role("button", name=f"{flipped} change", exact=True).click()
    until(tab, f"document.querySelector('#shown').textContent.startsWith('{flipped} of')")
    assert all("was " in text for text in texts(tab, ".card .chips"))
    # and the URL keeps it
    again = tab.evaluate("location.hash")
    assert "flips=any" in again
    assert "t.quality=3%2C3" in again
    tab.reload()
    assert texts(tab, "#shown") == [f"{flipped} of 190 images"]
    tab.get_by_role("button", name="Back to the policy").click()
    until(tab, "document.querySelector('#empty').checkVisibility()")


def test_a_label_is_one_key_and_labels_are_kept_exported_and_imported(open_page: Open, tmp_path: Path) -> None:
    tab = open_page([judged(f"i{number}", number / 4) for number in range(20)], labels=1000)
    # when the proposed images are labelled, one key each, and one label is taken back
    tab.keyboard.press("n")
    first = tab.locator("#detail .facts dd").first.text_content()
    for key in "arsu":
        tab.keyboard.press(key)
    assert texts(tab, "#progress") == ["2 of 20 proposed labelled"]
    assert texts(tab, "#detail-title") == ["Proposed 3 of 20"]
    tab.keyboard.press("Escape")
    # then they are still there when the page is opened again
    tab.reload()
    assert texts(tab, "#progress") == ["2 of 20 proposed labelled"]
    # and the file has them
    with tab.expect_download() as download:
        tab.get_by_role("button", name="Export").click()
    download.value.save_as(tmp_path / "labels.csv")
    with (tmp_path / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["label"], row["chosen"], row["chance"]) for row in rows] == [
        ("accept", "random", "1"),
        ("reject", "random", "1"),
    ]
    assert rows[0]["id"] == first
    # and another browser takes them in
    tab.evaluate("localStorage.clear()")
    tab.reload()
    assert texts(tab, "#progress") == ["0 of 20 proposed labelled"]
    tab.set_input_files("#file", tmp_path / "labels.csv")
    until(tab, "document.querySelector('#progress').textContent === '2 labels taken in.'")
    kept = tab.evaluate("Object.values(localStorage).map(JSON.parse)[0].map(([id, { label }]) => [id, label])")
    assert kept == [[row["id"], row["label"]] for row in rows]


def test_the_list_is_labelled_by_keyboard_and_goes_on(open_page: Open) -> None:
    tab = open_page([judged(f"i{number}") for number in range(50)])
    for key in ("j", "j", "r", "a", "k", "s"):
        tab.keyboard.press(key)
    kept = tab.evaluate("Object.values(localStorage).map(JSON.parse)[0].map(([id, { label }]) => [id, label])")
    assert kept == [["i2", "reject"], ["i3", "skip"]]
    tab.keyboard.press("/")
    tab.keyboard.type("i3 a")
    until(tab, "document.querySelector('#shown').textContent === '0 of 50 images'")
    assert len(tab.evaluate("Object.values(localStorage).map(JSON.parse)[0]")) == 2


def test_blind_mode_hides_what_the_model_and_the_policy_said(open_page: Open) -> None:
    tab = open_page(many(30, POLICY), hash_="#blind=1", labels=1000)
    for selector in ("#list", "#detail"):
        shown = tab.locator(selector).inner_text()
        assert "hidden" in shown
        for word in ("review_below", "near", "quality of", "3.", "2."):
            assert word not in shown
        assert tab.locator(f"{selector} .chip.accept, {selector} .chip.review, {selector} .chip.reject").count() == 0
        tab.keyboard.press("n")
    tab.keyboard.press("b")
    tab.wait_for_selector("#detail .bar")


def test_failures_stand_apart_and_a_missing_image_says_why(open_page: Open) -> None:
    images = [judged("a"), judged("lost", None, reasons=("not scored: fetch_refused",))]
    tab = open_page(images, find=nowhere)
    assert "no images were given to this report" in tab.locator(".card .none").first.text_content()
    assert texts(tab, "#progress") == ["Nothing to propose: no image can be looked at"]
    tab.get_by_role("button", name="Failures 1").click()
    tab.get_by_role("button", name="fetch_refused 1").click()
    until(tab, "location.hash.includes('code=fetch_refused')")
    assert "404" in tab.locator(".card").text_content()


def test_only_the_rows_in_sight_exist_and_the_last_can_be_reached(open_page: Open) -> None:
    tab = open_page(many(2000, POLICY), find=nowhere)
    assert tab.locator(".card").count() < 30
    tab.evaluate("scrollTo(0, document.body.scrollHeight)")
    tab.wait_for_selector(".card[aria-posinset='1900']")
    assert tab.locator(".card").count() < 30


def test_the_thresholds_of_now_are_a_policy_file(open_page: Open) -> None:
    tab = open_page(many(5, POLICY), hash_="#t.quality=0.5,3.25&t.nonsense=1,2")
    text = tab.locator("#policy-file").text_content()
    found = Policy.model_validate(yaml.safe_load(text.replace("NAME", "ours")))
    assert found.aspects == POLICY.aspects | {Aspect.QUALITY: Thresholds(reject_below=0.5, review_below=3.25)}
    assert (found.on_missing, found.on_failure) == (POLICY.on_missing, POLICY.on_failure)


@pytest.mark.skipif(not AXE.is_file(), reason="no axe-core here: npm install axe-core, or name its axe.min.js in AXE")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [(1280, 860), (390, 844)])
def test_axe_finds_nothing(open_page: Open, scheme: str, size: tuple[int, int]) -> None:
    tab = open_page(many(60, POLICY), size=size, hash_="#t.quality=2,3")
    tab.emulate_media(color_scheme=scheme)
    tab.keyboard.press("a")
    views: list[Callable[[], object]] = [
        lambda: None,
        lambda: tab.evaluate("for (const panel of document.querySelectorAll('details')) panel.open = true"),
        lambda: tab.keyboard.press("n"),
        lambda: tab.keyboard.press("b"),
        lambda: tab.keyboard.press("Escape"),
        lambda: tab.get_by_role("button", name="Failures").click(),
    ]
    for view in views:
        view()
        # DevTools run it beside the page, whose policy would keep a script out.
        tab.evaluate(AXE.read_text(encoding="utf-8"))
        found = tab.evaluate("axe.run(document, { resultTypes: ['violations'], preload: false })")["violations"]
        assert [(each["id"], each["impact"], each["nodes"][0]["html"]) for each in found] == []
