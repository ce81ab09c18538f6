"""Measures the page in headless Chromium: `python -m tests.m3agiqa.report.page.measure [--verdicts N]`.

Prints seconds until a page of N verdicts can be used, milliseconds from a move of a slider, a key that labels, and a
letter of a search to the frame that shows what follows, and the memory of the tab.
"""

from __future__ import annotations

import argparse
import re
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Page as Tab
from playwright.sync_api import sync_playwright

from m3agiqa.errors import FetchError
from m3agiqa.policy import Policy
from m3agiqa.report.judged import Judged
from m3agiqa.report.page.build import Page, build
from tests.m3agiqa import chromium
from tests.m3agiqa.report.page.samples import many, scored
from worker.demo.show import IMAGES

#: Images that have a thumbnail: making more takes long, and a browser reads only those in sight.
SEEN = 1000
PROMPT = "a white rocket on its launch pad at dusk between four lattice towers, highly detailed, number "
REASON = (
    "Fine grain and clean edges throughout, with natural light; the subject of the prompt is easy to make out. " * 3
)

#: Does something in the page, and gives the milliseconds until the frame after it was painted.
TIMED = """(action) => new Promise((done) => {
    const began = performance.now();
    eval(action);
    requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - began)));
})"""


def verdicts(count: int) -> list[Judged]:
    """Verdicts with texts as long as the bundled model's."""
    return [
        replace(
            image,
            prompt=f"{PROMPT}{number}",
            scores={aspect: scored(each.score, REASON) for aspect, each in image.scores.items()},
        )
        for number, image in enumerate(many(count, Policy.load("default")))
    ]


def find(image: Judged) -> Image.Image:
    number = int(image.id.rpartition("-")[2])
    if number >= SEEN:
        raise FetchError("not made for this measurement")
    with Image.open(IMAGES / ("cat.webp", "boat.png", "coffee.jpg")[number % 3]) as opened:
        return opened.convert("RGB")


def times(tab: Tab, actions: list[str]) -> str:
    session = tab.context.new_cdp_session(tab)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    before_s = busy_s(session)
    found = sorted(tab.evaluate(TIMED, action) for action in actions)
    busy_ms = 1000 * (busy_s(session) - before_s) / len(actions)
    most = found[int(0.95 * len(found))]
    return f"median {statistics.median(found):.0f} ms, 95 % within {most:.0f} ms, {busy_ms:.0f} ms of processor time"


def busy_s(session: Any) -> float:
    """Seconds of processor time of the tab's main thread so far."""
    metrics = session.send("Performance.getMetrics")["metrics"]
    return float(next(metric["value"] for metric in metrics if metric["name"] == "TaskDuration"))


def slide(value: float) -> str:
    return f"""const slider = document.querySelector("[aria-label='quality: reject below']");
        slider.value = {value}; slider.dispatchEvent(new Event("input"));"""


def key(name: str) -> str:
    return f"document.body.dispatchEvent(new KeyboardEvent('keydown', {{ key: '{name}', bubbles: true }}))"


def search(text: str) -> str:
    return f"""const box = document.querySelector("#search"); box.value = "{text}";
        box.dispatchEvent(new Event("input"));"""


def resident_mib(browser: Any) -> float:
    """Memory of the largest process that shows pages."""
    session = browser.new_browser_cdp_session()
    processes = session.send("SystemInfo.getProcessInfo")["processInfo"]
    sizes = [
        int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{one['id']}/status").read_text())[1])  # type: ignore[index]
        for one in processes
        if one["type"] == "renderer"
    ]
    return max(sizes) / 1024


def measure(count: int, folder: Path) -> None:
    began = time.perf_counter()
    index = build(verdicts(count), folder, Page(Policy.load("default")), find)
    size = sum(file.stat().st_size for file in (folder / "data").iterdir())
    print(f"{count} verdicts written in {time.perf_counter() - began:.1f} s, {size / 2**20:.1f} MiB of data")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium.find())
        opened = []
        for _ in range(5):
            tab = browser.new_page(viewport={"width": 1280, "height": 860})
            began = time.perf_counter()
            tab.goto(index.as_uri(), wait_until="commit")
            tab.wait_for_selector(".card")
            tab.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
            opened.append(time.perf_counter() - began)
            if len(opened) < 5:
                tab.close()
        print(f"open: median {statistics.median(opened):.2f} s, longest {max(opened):.2f} s of 5")
        print(f"threshold: {times(tab, [slide(step / 10) for step in range(50)])}")
        print(f"label: {times(tab, [key('a')] * 30)}")
        print(f"search: {times(tab, [search('number 12'[:length]) for length in range(1, 10)])}")
        heap = tab.evaluate("performance.memory.usedJSHeapSize") / 2**20
        print(f"memory: {heap:.0f} MiB of JavaScript, {resident_mib(browser):.0f} MiB resident in the tab's process")
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--verdicts", type=int, default=10_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(arguments.verdicts, Path(folder))


if __name__ == "__main__":
    main()
