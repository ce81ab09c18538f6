"""Conversations as tokens and labels: a model learns the assistant's turns."""

from __future__ import annotations

from dataclasses import dataclass

from m3agiqa.model.slicing import Grid
from m3agiqa.model.tokens import ConversationTokenizer
from m3agiqa.train.data.conversations import IMAGE, ConversationRecord

#: Label of a token that is not learned.
IGNORED = -100


@dataclass(frozen=True)
class Tokens:
    """The tokens of one conversation."""

    ids: list[int]
    #: One label for each of `ids`: the id itself, or IGNORED where the user speaks.
    labels: list[int]
    #: [start, end) of each slice's positions in `ids`.
    image_bounds: list[tuple[int, int]]


def tokens(tokenizer: ConversationTokenizer, item: ConversationRecord, grid: Grid) -> Tokens:
    """Tokens of a conversation about an image that is cut along `grid`."""
    analysis, question = item.conversations[0].content.removeprefix(IMAGE), item.conversations[2].content
    prompt = tokenizer.generation_prompt(grid, analysis)
    asked = tokenizer.scoring_conversation(grid, analysis, item.description, question)
    rated = tokenizer.scoring_conversation(grid, analysis, item.word, question)
    first = len(prompt.ids)
    end = max(at for at, token in enumerate(prompt.ids) if token in tokenizer.eos_ids)
    word = [*rated.ids[first : rated.described], prompt.ids[end]]
    ids = [*asked.ids, *prompt.ids[end + 1 :], *word]
    labels = [IGNORED] * len(ids)
    labels[first : asked.described + 1] = ids[first : asked.described + 1]
    labels[-len(word) :] = word
    return Tokens(ids, labels, prompt.image_bounds)
