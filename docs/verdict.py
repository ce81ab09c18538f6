"""Draws docs/verdict.png, which the README shows: an image of the demo and a blurred copy of it, as `mini` judges them.

`.venv/bin/python docs/verdict.py [FILE]`, after `make demo`.
"""

from __future__ import annotations

import csv
import io
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from PIL import Image

from m3agiqa.contract import Decision, Verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "worker" / "demo" / "pictures"
SHOWN = ("cat.webp", "cat-blurred.jpg")
COLOURS = {Decision.ACCEPT: "#2e7d32", Decision.REVIEW: "#b26a00", Decision.REJECT: "#c62828"}
INK, PALE = "#24292f", "#e6e8eb"
#: Inches, and pixels an inch.
SIZE, DPI = (8.8, 4.6), 100
#: Characters of a line of text.
LINE = 70


def score(image: str) -> Verdict:
    with (IMAGES / "manifest.csv").open(encoding="utf-8", newline="") as file:
        prompts = {row["image_path"]: row["prompt"] for row in csv.DictReader(file)}
    command = [sys.executable, "-m", "m3agiqa", "score", str(IMAGES / image), "--prompt", prompts[image], "--json"]
    command += ["--model", "mini", "--policy", "default", "--device", "cpu"]
    return Verdict.model_validate_json(subprocess.run(command, check=True, capture_output=True, cwd=ROOT).stdout)


def draw_image(axes: Axes, name: str) -> None:
    axes.imshow(Image.open(IMAGES / name).convert("RGB"))
    axes.set_axis_off()


def draw_verdict(axes: Axes, verdict: Verdict) -> None:
    axes.set_axis_off()
    axes.set_xlim(0, 10)
    axes.set_ylim(10, 0)
    colour = COLOURS[verdict.decision]
    axes.text(0, 0.6, verdict.decision.upper(), color=colour, fontsize=15, fontweight="bold", va="center")
    for row, (aspect, scored) in enumerate(verdict.aspects.items()):
        y = 2.4 + 1.2 * row
        axes.text(0, y, aspect, color=INK, fontsize=9.5, va="center")
        axes.barh(y, 5, left=2.6, height=0.55, color=PALE)
        axes.barh(y, scored.score, left=2.6, height=0.55, color=colour)
        axes.text(7.8, y, f"{scored.score:.2f} of 5, {scored.rating}", color=INK, fontsize=9.5, va="center")
    [reason, *_] = verdict.reasons or ("no score is below its threshold",)
    words = textwrap.wrap(next(iter(verdict.aspects.values())).description, LINE)
    text = "\n".join([f"reason: {reason}", "", *words])
    axes.text(0, 5.9, text, color=INK, fontsize=8.5, va="top", linespacing=1.35)


def draw() -> bytes:
    """A PNG of few colours, which keeps it small."""
    figure = Figure(figsize=SIZE, dpi=DPI, facecolor="white")
    height = 1 / len(SHOWN)
    for row, name in enumerate(SHOWN):
        bottom = 1 - (row + 1) * height
        draw_image(figure.add_axes((0.015, bottom + 0.03, 0.36, height - 0.06)), name)
        draw_verdict(figure.add_axes((0.4, bottom + 0.03, 0.59, height - 0.06)), score(name))
    drawn, small = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png")
    Image.open(drawn).convert("RGB").quantize(192).save(small, "PNG", optimize=True)
    return small.getvalue()


if __name__ == "__main__":
    Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "docs" / "verdict.png").write_bytes(draw())
