"""A node for ComfyUI that sorts images by their verdicts.

Copy this folder into ComfyUI's `custom_nodes`, or put a file there with the line
`from producers.integrations.comfyui import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS`. Redis is the one that
M3AGIQA_REDIS_URL names: a workflow, which ComfyUI writes into every image, is no place for a password.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Literal

from m3agiqa.client import Gate, Judged

#: Seconds between looks at whether the user interrupts.
_LOOK_S = 0.2


class M3AGIQAGate:
    """Sorts a batch. An output without any image blocks the nodes behind it, so that nothing is saved there."""

    CATEGORY = "image/m3agiqa"
    DESCRIPTION = "Sends images to m3agiqa, waits for the verdicts, and sorts the images by them."
    FUNCTION = "sort"
    RETURN_TYPES = ("IMAGE", "IMAGE", "STRING")
    RETURN_NAMES = ("accepted", "rejected", "report")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, Any]]:  # noqa: N802
        return {
            "required": {
                "images": ("IMAGE",),
                "prompt": ("STRING", {"multiline": True, "default": "", "tooltip": "What the images were made from"}),
                "otherwise": (["keep", "drop", "raise"], {"tooltip": "What becomes of an image that has no score"}),
                "review": (["drop", "keep"], {"tooltip": "What becomes of an image that a person should see"}),
                "timeout_s": ("FLOAT", {"default": 60.0, "min": 0.0, "max": 86400.0}),
            },
            "optional": {"policy": ("STRING", {"default": ""})},
        }

    async def sort(
        self,
        images: Any,
        prompt: str,
        otherwise: Literal["keep", "drop", "raise"] = "keep",
        review: Literal["keep", "drop"] = "drop",
        timeout_s: float = 60.0,
        policy: str = "",
    ) -> dict[str, Any]:
        """`images` is ComfyUI's tensor (batch, height, width, channels) of floats from 0 to 1."""
        gate = Gate(otherwise=otherwise, review=review, timeout=timeout_s, policy=policy or None)
        judging = asyncio.wrap_future(_started(lambda: gate.judge(list(map(_as_pillow, images)), prompt)))
        try:
            # The event loop runs other nodes meanwhile.
            while not (await asyncio.wait([judging], timeout=_LOOK_S))[0]:
                _stop_if_interrupted()
        finally:
            # Or an error that comes after an interruption would be missed, and the log would say so.
            judging.cancel()
        judged = judging.result()
        kept, others = ([at for at, one in enumerate(judged) if one.kept is kept] for kept in (True, False))
        lines = [f"{at}: {'kept' if one.kept else 'dropped'} {one.why}".strip() for at, one in enumerate(judged)]
        return {
            "ui": {"text": lines},
            "result": (_chosen(images, kept), _chosen(images, others), "\n".join(lines)),
        }


NODE_CLASS_MAPPINGS = {"M3AGIQAGate": M3AGIQAGate}
NODE_DISPLAY_NAME_MAPPINGS = {"M3AGIQAGate": "m3agiqa gate"}


def _started(judge: Callable[[], list[Judged]]) -> Future[list[Judged]]:
    """What `judge` gives, from a thread that nobody waits for: no workflow that is interrupted, nor ComfyUI."""
    judging: Future[list[Judged]] = Future()

    def run() -> None:
        if not judging.set_running_or_notify_cancel():
            return
        try:
            judging.set_result(judge())
        except BaseException as error:
            judging.set_exception(error)

    threading.Thread(target=run, name="m3agiqa-gate", daemon=True).start()
    return judging


def _as_pillow(image: Any) -> Any:
    from PIL import Image

    # As ComfyUI's own node saves it.
    return Image.fromarray(image.mul(255).clamp(0, 255).byte().cpu().numpy())


def _chosen(images: Any, places: list[int]) -> Any:
    if places:
        return images[places]
    from comfy_execution.graph_utils import ExecutionBlocker

    return ExecutionBlocker(None)


def _stop_if_interrupted() -> None:
    from comfy.model_management import throw_exception_if_processing_interrupted

    throw_exception_if_processing_interrupted()
