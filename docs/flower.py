"""Takes docs/flower.png, which docs/operations.md shows: Flower's page of tasks after the demo, in Chromium.

`.venv/bin/python docs/flower.py [FILE]`, after `make demo`.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from shots import take


def main() -> None:
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_suffix(".png")
    demo = subprocess.Popen([sys.executable, "-u", "-m", "worker.demo", "--keep"], stdout=subprocess.PIPE, text=True)
    try:
        assert demo.stdout is not None, "it was asked for"
        addresses = (re.search(r"Flower: (\S+/tasks)", line) for line in demo.stdout)
        address = next((found[1] for found in addresses if found), None)
        if address is None:
            raise SystemExit("error: the demo failed")
        take(f"{address}?name=m3agiqa.score", file, size=(1280, 940), colours=64)
    finally:
        demo.terminate()
        demo.wait()


if __name__ == "__main__":
    main()
