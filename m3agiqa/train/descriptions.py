"""Descriptions of pictures in files: JSON lines, or a conversation file with a model's own answers."""

from __future__ import annotations

import json
from pathlib import Path

from m3agiqa.contract import Aspect
from m3agiqa.errors import RequestInvalid
from m3agiqa.train.conversations import read_conversations


def cleaned(text: str) -> str:
    """`text` without the end of the JSON object that a teacher answered with: some published descriptions kept it."""
    return text.removesuffix('" }')


def read_descriptions(path: Path, aspect: Aspect) -> dict[str, str]:
    """Picture to description.

    From `.json`, a conversation file's `response_0`, else its second turn. From `.jsonl`, `description` of the lines
    whose `aspect` is this one; lines without an aspect count for all, later lines win.

    Raises:
        RequestInvalid: unreadable, or nothing in it is about this aspect.
    """
    found = _from_conversations(path) if path.suffix == ".json" else _from_lines(path, aspect)
    if not found:
        raise RequestInvalid(f"{path} has no description of {aspect}")
    return found


def _from_conversations(path: Path) -> dict[str, str]:
    return {
        item.image: item.description if item.response_0 is None else item.response_0
        for item in read_conversations(path)
    }


def _from_lines(path: Path, aspect: Aspect) -> dict[str, str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RequestInvalid(f"{path} cannot be read ({type(error).__name__})") from error
    found = {}
    for number, line in enumerate(lines, 1):
        try:
            item = json.loads(line) if line.strip() else {}
            if item.get("aspect", aspect) == aspect and item.get("description"):
                found[Path(item["image"]).name] = cleaned(str(item["description"]))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RequestInvalid(f"{path}, line {number}: not a JSON object with image and description") from error
    return found
