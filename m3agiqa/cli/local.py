"""Loads the scorer of a command: that of `--model`, or of the default model."""

from __future__ import annotations

import sys

from m3agiqa import hub
from m3agiqa.cli import bars
from m3agiqa.contract import Aspect
from m3agiqa.errors import CheckpointError, RequestInvalid
from m3agiqa.profile import ModelProfile
from m3agiqa.scorer import Scoring, load_scorer


def load(
    model: ModelProfile | str | None, device: str, aspects: tuple[Aspect, ...] | None, *, max_batch: int
) -> Scoring:
    """Load the scorer of `model`, or of the default model, with a bar on a terminal.

    Raises:
        RequestInvalid: the model does not have one of `aspects`.
        ConfigError, CheckpointError: as `load_scorer`.
    """
    with bars.shown("loading") as progress:
        scorer = load_scorer(model or default_model(device), device, max_batch=max_batch, progress=progress)
    for aspect in aspects or ():
        if aspect not in scorer.aspects:
            raise RequestInvalid(f"model {scorer.info.profile} has no {aspect}, only {', '.join(scorer.aspects)}")
    return scorer


def default_model(device: str) -> str:
    """`published` where there is a GPU and the checkpoint is on this disk, else the bundled `mini`.

    So no command downloads 25 GB unasked.
    """
    import torch

    if device == "cpu" or not torch.cuda.is_available():
        return "mini"
    try:
        hub.resolve(ModelProfile.load("published"), offline=True)
    except CheckpointError:
        print("note: using the model mini; for the real one run `m3agiqa download`", file=sys.stderr)
        return "mini"
    return "published"
