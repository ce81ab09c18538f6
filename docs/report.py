"""Takes docs/report.png, which the README shows: the page of the demo's images as `mini` scores them, in Chromium.

`.venv/bin/python docs/report.py [FILE]`, after `make test`, which installs what drives Chromium.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

IMAGES = Path(__file__).resolve().parent.parent / "worker" / "demo" / "pictures"
#: The view that is shown: stricter about quality than the policy, so that decisions change.
VIEW = "#t.quality=2.2,2.7&sort=quality-down"
SIZE = {"width": 1280, "height": 820}


def m3agiqa(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "m3agiqa", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def take(address: str, file: Path) -> None:
    """Write what Chromium shows as a PNG with a palette, which is a third as large."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium") or shutil.which("google-chrome"))
        tab = browser.new_page(viewport=SIZE)
        tab.goto(address)
        tab.wait_for_selector(".card img")
        tab.evaluate("Promise.all([...document.images].map((image) => image.decode()))")
        shot = tab.screenshot()
        browser.close()
    colours = Image.open(io.BytesIO(shot)).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    colours.save(file, optimize=True)


def main() -> None:
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_suffix(".png")
    with tempfile.TemporaryDirectory() as name:
        verdicts, page = Path(name, "verdicts.json"), Path(name, "page")
        scoring = ("--aspect", "all", "--model", "mini", "--device", "cpu")
        m3agiqa("batch", IMAGES / "manifest.csv", "--output", verdicts, *scoring)
        m3agiqa("report", verdicts, "-o", page, "--images", IMAGES, "--labels", 6, "--title", "Images of the demo")
        take(f"{(page / 'index.html').as_uri()}{VIEW}", file)


if __name__ == "__main__":
    main()
