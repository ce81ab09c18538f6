"""Scoring pictures that lie on this disk: what `score` and `batch` share."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from m3agiqa import hub
from m3agiqa.contract import MAX_PROMPT_CHARS, Aspect
from m3agiqa.errors import CheckpointError, FetchError, RequestInvalid
from m3agiqa.images import open_picture
from m3agiqa.jobs import Job
from m3agiqa.profile import ModelProfile
from m3agiqa.scorer import Scoring, load_scorer


def read_job(path: Path, prompt: str, aspects: tuple[Aspect, ...] | None) -> Job:
    """Open one picture.

    Raises:
        RequestInvalid: the prompt is too long.
        FetchError: no such file, or not readable.
        ImageError: no usable picture.
    """
    if len(prompt) > MAX_PROMPT_CHARS:
        raise RequestInvalid(f"the prompt has {len(prompt)} characters, more than {MAX_PROMPT_CHARS}")
    try:
        # Only regular files: reading a device or a pipe may never end.
        data = path.read_bytes() if path.is_file() else None
    except (OSError, ValueError) as error:
        raise FetchError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    if data is None:
        raise FetchError(f"{path}: {'not a file' if path.exists() else 'no such file'}")
    return Job(open_picture(data), prompt, aspects)


def load(model: str | None, device: str, aspects: tuple[Aspect, ...] | None, *, max_batch: int) -> Scoring:
    """Load the scorer for `model`, or the default one.

    Raises:
        RequestInvalid: the model does not have one of `aspects`.
        ConfigError, CheckpointError: as `load_scorer`.
    """
    scorer = load_scorer(model or default_model(device), device, max_batch=max_batch)
    for aspect in aspects or ():
        if aspect not in scorer.aspects:
            raise RequestInvalid(f"model {scorer.info.profile} has no {aspect}, only {', '.join(scorer.aspects)}")
    return scorer


def default_model(device: str) -> str:
    """`published` where there is a GPU and its checkpoint is on this disk, else the bundled `mini`.

    A first call never begins a download of 25 GB that nobody asked for.
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


def check_writable(path: Path) -> None:
    """Find out before the work, not after it.

    Raises:
        RequestInvalid: `path` is a folder or lies in none that can be written to.
    """
    try:
        if path.is_dir():
            raise RequestInvalid(f"cannot write {path}: it is a folder")
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise RequestInvalid(f"cannot write {path}: {error.strerror}") from error


def write(path: Path, text: str) -> None:
    """Write a whole file or none, so that an interruption leaves no half of one.

    Raises:
        RequestInvalid: it cannot be written.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        # The text brings its own line ends.
        partial.write_text(text, encoding="utf-8", newline="")
        partial.replace(path)
    except OSError as error:
        raise RequestInvalid(f"cannot write {path}: {error.strerror}") from error
