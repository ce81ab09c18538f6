"""Pictures on this disk."""

from __future__ import annotations

from pathlib import Path

from m3agiqa.contract import MAX_PROMPT_CHARS, Aspect
from m3agiqa.errors import FetchError, RequestInvalid
from m3agiqa.images import Picture, open_picture
from m3agiqa.jobs import Job


def read_job(path: Path, prompt: str, aspects: tuple[Aspect, ...] | None) -> Job:
    """Open one picture to score it.

    Raises:
        RequestInvalid: the prompt is too long.
        FetchError, ImageError: as `read_picture`.
    """
    if len(prompt) > MAX_PROMPT_CHARS:
        raise RequestInvalid(f"the prompt has {len(prompt)} characters, more than {MAX_PROMPT_CHARS}")
    return Job(read_picture(path), prompt, aspects)


def read_picture(path: Path) -> Picture:
    """Open one picture.

    Raises:
        FetchError: no such file, or not readable.
        ImageError: no usable picture.
    """
    try:
        # Only regular files: reading a device or a pipe may never end.
        data = path.read_bytes() if path.is_file() else None
    except (OSError, ValueError) as error:
        raise FetchError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    if data is None:
        raise FetchError(f"{path}: {'not a file' if path.exists() else 'no such file'}")
    return open_picture(data)
