"""What a browser shows of an image: the measure of `m3agiqa.images` and `m3agiqa.colour`.

One run of headless Chromium draws every image on white. A canvas gives the pixels as sRGB, 8 bits a channel, as a
page would show them at natural size; of an animation, the first frame that is shown.
"""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-color-profile=srgb",
    "--hide-scrollbars",
    "--dump-dom",
)

# An image whose header is whole but whose pixels are not has a size and paints nothing, or a part. Canvases of clear
# pixels tell "paints nothing" from "paints white".
_PAGE = """<!doctype html><meta charset="utf-8"><body>%s<pre id="out"></pre><script>
addEventListener("load", () => {
  const shown = [];
  for (const image of document.images) {
    const width = image.naturalWidth, height = image.naturalHeight;
    if (!width || !height) { shown.push(null); continue; }
    const context = new OffscreenCanvas(width, height).getContext("2d", {colorSpace: "srgb", willReadFrequently: true});
    context.drawImage(image, 0, 0);
    const painted = context.getImageData(0, 0, width, height).data.some(sample => sample > 0);
    context.globalCompositeOperation = "destination-over";
    context.fillStyle = "white";
    context.fillRect(0, 0, width, height);
    const data = context.getImageData(0, 0, width, height).data;
    let text = "";
    for (let at = 0; at < data.length; at += 8192) text += String.fromCharCode(...data.subarray(at, at + 8192));
    shown.push({width, height, painted, rgba: btoa(text)});
  }
  document.getElementById("out").textContent = JSON.stringify(shown);
});
</script>"""


@dataclass(frozen=True)
class Shown:
    """One image as the browser shows it."""

    #: On white, at natural size, turned as the browser turns it.
    rgb: Image.Image
    #: Whether anything was painted. False for a whole header without pixels, and for an image that is clear all over.
    painted: bool


def find() -> str | None:
    """The path of Chromium on this machine, if there is one."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


def show(images: Mapping[str, bytes], *, timeout_s: float = 120) -> dict[str, Shown | None]:
    """What Chromium shows of each image; None where it shows a broken image. Small images only: all go on one page.

    Raises:
        RuntimeError: no Chromium here, or it gave no answer.
    """
    program = find()
    if program is None:
        raise RuntimeError("no chromium on PATH")
    tags = "".join(f'<img src="data:;base64,{base64.b64encode(data).decode()}">' for data in images.values())
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        page = Path(folder, "page.html")
        page.write_text(_PAGE % tags)
        command = [program, *_FLAGS, f"--user-data-dir={folder}/profile", page.as_uri()]
        done = subprocess.run(command, capture_output=True, timeout=timeout_s, check=False)
    found = re.search(r'<pre id="out">(.+?)</pre>', done.stdout.decode())
    if found is None:
        raise RuntimeError(f"chromium gave no answer: {done.stderr.decode()[-500:]}")
    return dict(zip(images, map(_shown, json.loads(found.group(1))), strict=True))


def _shown(answer: dict[str, object] | None) -> Shown | None:
    if answer is None:
        return None
    size = (int(str(answer["width"])), int(str(answer["height"])))
    rgba = Image.frombytes("RGBA", size, base64.b64decode(str(answer["rgba"])))
    return Shown(rgba.convert("RGB"), painted=bool(answer["painted"]))
