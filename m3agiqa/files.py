"""Reads images from this disk."""

from __future__ import annotations

import hashlib
import re
import stat
from pathlib import Path

from m3agiqa.contract import MAX_PROMPT_CHARS, Aspect
from m3agiqa.errors import DataError, FetchError, RequestInvalid
from m3agiqa.images import DecodedImage, open_image
from m3agiqa.inputs import read_bytes
from m3agiqa.jobs import Job
from m3agiqa.paths import exists
from m3agiqa.quoting import PATH_CHARS, quoted, writable

#: How a URL begins, also where `Path` made one slash of two.
_URL = re.compile(r"(https?|s3|data):", re.IGNORECASE)


def read_job(path: Path, prompt: str, aspects: tuple[Aspect, ...] | None) -> Job:
    """Open one image to score it.

    Raises:
        RequestInvalid: the prompt is too long, or not in UTF-8.
        FetchError, ImageError: as `read_image`.
    """
    if len(prompt) > MAX_PROMPT_CHARS:
        raise RequestInvalid(f"the prompt has {len(prompt)} characters, more than {MAX_PROMPT_CHARS}")
    if writable(prompt) != prompt:
        raise RequestInvalid("the prompt is not in UTF-8")
    return Job(read_image(path), prompt, aspects)


def find_image(name: str, folder: Path) -> Path:
    """The image file that a table in `folder` names: one in that folder, or else in the current one.

    Raises:
        FetchError: the name is empty.
    """
    if not name:
        raise FetchError("the name of the image is empty")
    return folder / name if exists(folder / name) else Path(name)


def image_digest(path: Path) -> str | None:
    """SHA-256 of an image's file; None if it cannot be read."""
    try:
        return hashlib.sha256(read_bytes(path)).hexdigest()
    except DataError:
        return None


def read_image(path: Path) -> DecodedImage:
    """Open one image.

    Raises:
        FetchError: there is no such file, or it cannot be read.
        ImageError: it is no usable image.
    """
    name = quoted(path, PATH_CHARS)
    try:
        # Only regular files: reading a device or a pipe may never end.
        data = path.read_bytes() if stat.S_ISREG(path.stat().st_mode) else None
    except (OSError, ValueError) as error:
        if match := _URL.match(str(path)):
            raise FetchError(
                f"a {match[1]} URL is no file on this disk; `m3agiqa-submit` takes https, http and s3"
            ) from error
        raise FetchError(f"{name}: {getattr(error, 'strerror', None) or error}") from error
    if data is None:
        raise FetchError(f"{name}: not a file")
    return open_image(data)
