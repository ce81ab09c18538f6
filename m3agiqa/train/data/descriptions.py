"""Descriptions of images in files: JSON lines, or a conversation file with a model's own answers."""

from __future__ import annotations

from pathlib import Path

from m3agiqa import jsonl
from m3agiqa.contract import Aspect
from m3agiqa.errors import DataError
from m3agiqa.train.data.conversations import as_conversation


def cleaned(text: str) -> str:
    """`text` without the end of a JSON object, which some published descriptions kept from the teacher's answer."""
    return text.removesuffix('" }')


def read_descriptions(path: Path, aspect: Aspect) -> dict[str, str]:
    """Read descriptions of one aspect, by image.

    A conversation gives its `response_0`, or else its second turn. Another object gives its `description`, if it has
    this `aspect` or none. The last description of an image counts.

    Raises:
        DataError: the file is unreadable, or describes no image in this aspect.
    """
    found = {}
    for where, item in jsonl.read(path):
        if "conversations" in item:
            talk = as_conversation(where, item)
            found[talk.image] = talk.description if talk.response_0 is None else talk.response_0
        elif item.get("aspect", aspect) == aspect and item.get("description"):
            if not isinstance(item.get("image"), str):
                raise DataError(f"{where}: not a JSON object with image and description")
            found[Path(item["image"]).name] = cleaned(str(item["description"]))
    if not found:
        raise DataError(f"{path} has no description of {aspect}")
    return found
