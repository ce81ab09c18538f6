"""Takes pictures of pages for the docs, in Chromium."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from PIL import Image

FLAGS = ("--headless", "--no-sandbox", "--hide-scrollbars", "--virtual-time-budget=8000")


def take(address: str, file: Path, *, size: tuple[int, int], colours: int) -> None:
    """Write what Chromium shows of a page as a PNG with a palette, which is a third as large. `size` is in pixels."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("error: no Chromium here")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        shot = Path(folder) / "shot.png"
        command = [chromium, *FLAGS, f"--window-size={size[0]},{size[1]}", f"--user-data-dir={folder}/profile"]
        subprocess.run([*command, f"--screenshot={shot}", address], check=True, capture_output=True, timeout=120)
        Image.open(shot).convert("RGB").quantize(colours, dither=Image.Dither.NONE).save(file, optimize=True)
