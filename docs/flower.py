"""Takes docs/flower.png, which docs/operations.md shows: Flower's page of tasks after the demo, in Chromium.

`.venv/bin/python docs/flower.py [FILE]`, after `make demo`.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

FLAGS = ("--headless", "--no-sandbox", "--hide-scrollbars", "--window-size=1280,940", "--virtual-time-budget=8000")


def take(address: str, file: Path) -> None:
    """Write what Chromium shows of a page as a PNG with a palette, which is a third as large."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("error: no Chromium here")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        shot = Path(folder) / "shot.png"
        command = [chromium, *FLAGS, f"--user-data-dir={folder}/profile", f"--screenshot={shot}", address]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        Image.open(shot).convert("RGB").quantize(64, dither=Image.Dither.NONE).save(file, optimize=True)


def main() -> None:
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_suffix(".png")
    demo = subprocess.Popen([sys.executable, "-u", "-m", "worker.demo", "--keep"], stdout=subprocess.PIPE, text=True)
    try:
        assert demo.stdout is not None, "it was asked for"
        addresses = (re.search(r"Flower: (\S+/tasks)", line) for line in demo.stdout)
        address = next((found[1] for found in addresses if found), None)
        if address is None:
            raise SystemExit("error: the demo failed")
        take(f"{address}?name=m3agiqa.score", file)
    finally:
        demo.terminate()
        demo.wait()


if __name__ == "__main__":
    main()
