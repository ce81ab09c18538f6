"""An extension for AUTOMATIC1111's webui and for Forge: files away the images that are not kept.

Copy the folder `webui` as `extensions/m3agiqa`. It asks the command `m3agiqa-submit`, and imports nothing of ours, as
the webui's Python and packages are too old for that: install ours into an environment of its own, and name its command
in GATE_COMMAND if that is not on the PATH. M3AGIQA_REDIS_URL names the Redis.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gradio as gr
from modules import scripts

logger = logging.getLogger("m3agiqa")

#: Characters of a prompt at most, as the queue has it.
MAX_PROMPT_CHARS = 8000
#: Images that are asked for at a time; each takes a process.
AT_ONCE = 4
#: Seconds beyond `timeout_s` after which a command that does not end is ended.
GRACE_S = 30


class M3AGIQAGate(scripts.Script):  # type: ignore[misc]
    def title(self) -> str:
        return "m3agiqa gate"

    def show(self, is_img2img: bool) -> Any:
        return scripts.AlwaysVisible

    def ui(self, is_img2img: bool) -> list[Any]:
        with gr.Accordion("m3agiqa gate", open=False):
            enabled = gr.Checkbox(False, label="File away images that are not accepted, in a folder `rejected`")
            otherwise = gr.Radio(["keep", "drop"], value="keep", label="An image that has no score")
            review = gr.Radio(["drop", "keep"], value="drop", label="An image that a person should see")
            timeout_s = gr.Number(60, label="Seconds to wait for the verdicts")
        return [enabled, otherwise, review, timeout_s]

    def postprocess(
        self,
        p: Any,
        processed: Any,
        enabled: bool = False,
        otherwise: str = "keep",
        review: str = "drop",
        timeout_s: float = 60,
    ) -> None:
        if not enabled:
            return
        places, step = positions(processed)
        with ThreadPoolExecutor(AT_ONCE) as threads:
            asked = [
                threads.submit(decision, processed.images[place], prompt, float(timeout_s))
                for place, prompt in zip(places, processed.all_prompts, strict=False)
            ]
        kept: list[bool] = []
        lines: list[str] = []
        for number, answer in enumerate(asked):
            said, why = answer.result()
            if said is None:
                logger.warning("an image has no score; %s it: %s", otherwise, why)
            is_kept = {"accept": True, "review": review == "keep", "reject": False, None: otherwise == "keep"}[said]
            kept.append(is_kept)
            lines += [f"image {number + 1}: {why}"] if why else []
        # What was not asked for, as there is no prompt of its own, stays.
        kept += [True] * (len(places) - len(kept))
        file_away(processed, places, step, kept)
        processed.comments = "\n".join(filter(None, [processed.comments, *lines]))


def positions(processed: Any) -> tuple[list[int], int]:
    """Places of generated images, and how many images each has: the webui may put its masks behind it."""
    first = processed.index_of_first_image
    generated = len(processed.infotexts) - first
    step = max(1, (len(processed.images) - first) // max(1, generated))
    return [first + number * step for number in range(generated)], step


def decision(image: Any, prompt: str, timeout_s: float) -> tuple[str | None, str]:
    """What is said of an image: "accept", "review", "reject", or None if it has no score; and why."""
    if len(prompt) > MAX_PROMPT_CHARS:
        return "review", f"a prompt of {len(prompt)} characters is too long"
    try:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "image.png"
            image.save(file, "PNG")
            command = [os.environ.get("GATE_COMMAND", "m3agiqa-submit"), "one", str(file), f"--prompt={prompt}"]
            ended = subprocess.run(
                [*command, f"--wait={timeout_s}", "--json"],
                capture_output=True,
                text=True,
                encoding="utf-8",
                errors="replace",
                timeout=timeout_s + GRACE_S,
                check=False,
            )
        if not ended.stdout.strip():
            return None, (ended.stderr.strip().splitlines() or ["m3agiqa-submit says nothing"])[-1]
        verdict = json.loads(ended.stdout)
        if verdict["status"] != "scored" and verdict["error"]["retryable"]:
            return None, verdict["error"]["message"]
        # One that failed for good too: whoever writes prompts must not get images past the gate by them.
        return verdict["decision"], "; ".join(verdict["reasons"])
    except Exception as error:
        # No image is lost because something of ours broke.
        logger.warning("an image cannot be judged: %s", type(error).__name__)
        return None, type(error).__name__


def file_away(processed: Any, places: list[int], step: int, kept: list[bool]) -> None:
    """Take images that are not kept out of what the webui shows, and move their files. Nothing is deleted."""
    if all(kept):
        return
    # A grid shows all of them.
    gone = set(range(processed.index_of_first_image))
    for place, is_kept in zip(places, kept, strict=True):
        if not is_kept:
            gone.update(range(place, place + step))
    for place in gone:
        move(getattr(processed.images[place], "already_saved_as", None))
    first = processed.index_of_first_image
    processed.images = [image for place, image in enumerate(processed.images) if place not in gone]
    processed.infotexts = [text for text, is_kept in zip(processed.infotexts[first:], kept, strict=True) if is_kept]
    processed.index_of_first_image = 0
    for name in ("all_prompts", "all_negative_prompts", "all_seeds", "all_subseeds"):
        values = getattr(processed, name)
        setattr(processed, name, [value for value, is_kept in zip(values, kept, strict=False) if is_kept])


def move(saved_as: str | None) -> None:
    if saved_as is None:
        return
    file = Path(saved_as)
    folder = file.parent / "rejected"
    folder.mkdir(exist_ok=True)
    # The webui gives a number anew once it is free in its own folder.
    mark = time.time_ns()
    for one in (file, file.with_suffix(".txt")):
        if one.is_file():
            one.replace(folder / f"{one.stem}-{mark}{one.suffix}")
