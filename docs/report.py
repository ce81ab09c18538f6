"""Takes docs/report.png, which the README shows: the page of the demo's images as `mini` scores them, in Chromium.

`.venv/bin/python docs/report.py [FILE]`, after `make demo`.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from shots import take

IMAGES = Path(__file__).resolve().parent.parent / "worker" / "demo" / "pictures"
#: The view that is shown: stricter about quality than the policy, so that decisions change.
VIEW = "#t.quality=2.2,2.7&sort=quality-down"


def m3agiqa(*arguments: object) -> None:
    subprocess.run(
        [sys.executable, "-m", "m3agiqa", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL, cwd=IMAGES
    )


def main() -> None:
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_suffix(".png")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        verdicts, page = folder / "verdicts.json", folder / "page"
        m3agiqa(
            "batch",
            IMAGES / "manifest.csv",
            "--output",
            verdicts,
            "--aspect",
            "all",
            "--model",
            "mini",
            "--device",
            "cpu",
        )
        m3agiqa("report", verdicts, "-o", page, "--images", IMAGES, "--labels", 12, "--title", "Images of the demo")
        take(f"{(page / 'index.html').as_uri()}{VIEW}", file, size=(1280, 820), colours=128)


if __name__ == "__main__":
    main()
