"""Conversation files: what a model is asked about each image, and what it should answer.

A file is a JSON list of `{id, image, conversations: [user, assistant, user, assistant]}`. The first turn starts with
`<image>` in files made for fine-tuning, the fourth is the rating word. Files with a model's own answers also have
`response_0` (the description) and `response_1` (the word).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from m3agiqa import jsonl
from m3agiqa.contract import Rating, describe_validation
from m3agiqa.errors import DataError
from m3agiqa.outputs import make_folder, write
from m3agiqa.profile import AspectProfile

IMAGE = "<image>\n"


def rating_word(mos: float) -> Rating:
    """The rating word for a score; one outside 0 to 5 counts as the nearer end."""
    return Rating.from_score(min(max(mos, 0.0), 5.0))


class Turn(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Literal["user", "assistant"]
    content: str


class ConversationRecord(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", coerce_numbers_to_str=True)

    id: str
    #: File name of the image, without a folder.
    image: str
    conversations: tuple[Turn, ...] = Field(min_length=4, max_length=4)
    response_0: str | None = None
    response_1: str | None = None
    #: Digest of the image and of the weights that gave the responses.
    answered: str | None = None

    @model_validator(mode="after")
    def _takes_turns(self) -> Self:
        if [turn.role for turn in self.conversations] != ["user", "assistant"] * 2:
            raise ValueError("the turns must be user, assistant, user, assistant")
        return self

    @property
    def description(self) -> str:
        return self.conversations[1].content

    @property
    def word(self) -> str:
        return self.conversations[3].content.strip()

    @classmethod
    def for_training(
        cls, identity: str, image: str, prompt: str, description: str, mos: float, asked: AspectProfile
    ) -> Self:
        """The conversation that fine-tuning learns; `mos` is the aspect's own score, on the scale 0 to 5."""
        contents = (
            IMAGE + asked.analysis.replace("{prompt}", prompt),
            description,
            asked.question,
            rating_word(mos).value,
        )
        roles = ("user", "assistant") * 2
        turns = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]
        return cls.model_validate({"id": identity, "image": image, "conversations": turns})


def read_conversations(path: Path) -> list[ConversationRecord]:
    """Read a conversation file; drops a folder in front of an image's name.

    Raises:
        DataError: the file is unreadable or no JSON, or an item is no conversation; says which.
    """
    return [as_conversation(where, item) for where, item in jsonl.read(path)]


def as_conversation(where: str, item: dict[str, Any]) -> ConversationRecord:
    """Validate an item of a conversation file that stands at `where`.

    Raises:
        DataError: it is no conversation.
    """
    try:
        conversation = ConversationRecord.model_validate(item)
    except ValidationError as error:
        raise DataError(f"{where}: {describe_validation(error)}") from None
    return conversation.model_copy(update={"image": Path(conversation.image).name})


def write_conversations(path: Path, conversations: Sequence[ConversationRecord]) -> None:
    """Raises: OutputError: the file cannot be written."""
    items = [item.model_dump(exclude_none=True) for item in conversations]
    make_folder(path.parent)
    write(path, json.dumps(items, indent=1, ensure_ascii=False) + "\n")
