"""The node for ComfyUI, in a loader that does as ComfyUI does."""

from __future__ import annotations

import asyncio
import gc
import io
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from m3agiqa.client import gate
from m3agiqa.errors import ResultTimeout
from tests.judge import Judge
from tests.m3agiqa.client.test_gate import inline
from tests.producers.integrations.comfyui import Blocker, ComfyUI, Interrupted
from tests.support import ROOT

FOLDER = ROOT / "producers" / "integrations" / "comfyui"
NODE = "M3AGIQAGate"


@pytest.fixture
def comfyui(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[ComfyUI]:
    monkeypatch.setenv("M3AGIQA_REDIS_URL", redis_url)
    host = ComfyUI()
    for name, module in host.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    gate._of_the_environment.cache_clear()
    host.load(FOLDER)
    yield host
    gate._of_the_environment().close()
    gate._of_the_environment.cache_clear()


def batch(*shades: int) -> torch.Tensor:
    """Images of 8 x 8 pixels, as ComfyUI has them."""
    return torch.stack([torch.rand(8, 8, 3, generator=torch.Generator().manual_seed(shade)) for shade in shades])


def saved(shade: int) -> bytes:
    """The file that ComfyUI's own node saves of such an image."""
    [pixels] = batch(shade)
    out = io.BytesIO()
    Image.fromarray(np.clip(255.0 * pixels.numpy(), 0, 255).astype(np.uint8)).save(out, "PNG")
    return out.getvalue()


def test_a_batch_goes_where_its_verdict_says_and_nowhere_else(comfyui: ComfyUI, judge: Judge) -> None:
    for prompt, chosen, blocked in (("accept", "accepted", "rejected"), ("reject", "rejected", "accepted")):
        found = asyncio.run(comfyui.run(NODE, images=[batch(10, 200)], prompt=[prompt]))
        assert torch.equal(found[chosen][0], batch(10, 200))
        assert isinstance(found[blocked][0], Blocker)
        # a node behind what is blocked, as the one that saves, does not run
        behind = asyncio.run(comfyui.run(NODE, images=found[blocked]))
        assert [isinstance(value, Blocker) for value in behind["accepted"]] == [True]
    # and a worker saw the very pixels
    assert [request.image_url for request in judge.asked] == [inline(saved(10)), inline(saved(200))] * 2
    assert found["report"] == [
        "0: dropped quality 0.50 < reject_below 1.50\n1: dropped quality 0.50 < reject_below 1.50"
    ]
    assert found["ui"]["text"] == found["report"][0].splitlines()


def test_images_and_prompts_of_lists_pair_up(comfyui: ComfyUI, judge: Judge) -> None:
    prompts = ["reject one", "accept two", "review three"]
    found = asyncio.run(comfyui.run(NODE, images=[batch(1), batch(2), batch(3)], prompt=prompts))
    assert judge.images() == {prompt: inline(saved(shade)) for prompt, shade in zip(prompts, (1, 2, 3), strict=True)}
    assert [isinstance(value, Blocker) for value in found["accepted"]] == [True, False, True]
    assert torch.equal(found["accepted"][1], batch(2))


@pytest.mark.usefixtures("judge")
def test_the_workflow_chooses_what_becomes_of_the_others(comfyui: ComfyUI) -> None:
    def kept(prompt: str, **choices: Any) -> bool:
        found = asyncio.run(
            comfyui.run(NODE, images=[batch(1)], prompt=[prompt], **{name: [value] for name, value in choices.items()})
        )
        return not isinstance(found["accepted"][0], Blocker)

    assert kept("fail")
    assert kept("silence", timeout_s=0.1)
    assert not kept("silence", timeout_s=0.1, otherwise="drop")
    assert not kept("review")
    assert kept("review", review="keep")
    with pytest.raises(ResultTimeout):
        kept("silence", timeout_s=0.1, otherwise="raise")


def test_other_nodes_run_while_one_waits(comfyui: ComfyUI, redis_url: str) -> None:
    from tests.judge import judging

    async def run() -> dict[str, Any]:
        waiting = asyncio.create_task(comfyui.run(NODE, images=[batch(1)], prompt=["reject"]))
        # given a worker that another node starts
        await asyncio.sleep(0)
        with judging(redis_url):
            return await waiting

    assert isinstance(asyncio.run(run())["accepted"][0], Blocker)


def test_a_user_who_interrupts_waits_no_longer(comfyui: ComfyUI) -> None:
    async def run() -> None:
        waiting = asyncio.create_task(comfyui.run(NODE, images=[batch(1)], prompt=["silence"], timeout_s=[3.0]))
        await asyncio.sleep(0)
        comfyui.interrupted = True
        with pytest.raises(Interrupted):
            await waiting

    asyncio.run(run())


def test_an_error_is_told_once(
    comfyui: ComfyUI, judge: Judge, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a gate that looks often whether the user interrupts
    monkeypatch.setattr(comfyui.nodes[NODE].sort.__globals__["Gate"], "judge", lambda *_: time.sleep(0.5) or 1 / 0)
    monkeypatch.setitem(comfyui.nodes[NODE].sort.__globals__, "_LOOK_S", 0.05)
    with pytest.raises(ZeroDivisionError):
        asyncio.run(comfyui.run(NODE, images=[batch(1)], prompt=["accept"]))
    gc.collect()
    assert caplog.text == ""


def test_one_line_loads_what_is_installed(comfyui: ComfyUI, tmp_path: Path) -> None:
    [line] = [line for line in (FOLDER / "__init__.py").read_text().splitlines() if line.startswith("`from")]
    (tmp_path / "gate.py").write_text(line.strip("`").partition("`")[0])
    comfyui.nodes.clear()
    comfyui.load(tmp_path / "gate.py")
    assert list(comfyui.nodes) == [NODE]
