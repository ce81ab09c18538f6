"""The rows of a batch: one for every image and aspect, each with an outcome of its own."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from m3agiqa.contract import Aspect, AspectScore, Failure, Rating
from m3agiqa.engine.encoding import EncodedImage
from m3agiqa.errors import M3AGIQAError, PromptTooLong, ScoreNotFinite
from m3agiqa.model.tokens import MAX_PROMPT_TOKENS, ConversationTokenizer, TokenizedConversation
from m3agiqa.profile import AspectProfile


@dataclass
class Row:
    """One image's way through one aspect."""

    #: Number of the image in its batch.
    job: int
    aspect: Aspect
    image: EncodedImage
    profile: AspectProfile
    #: The request to describe the image, its prompt filled in.
    analysis: str
    #: The description, if the model is not to write one.
    given: str | None = None
    #: Most tokens of the description that the model writes; None leaves it to the profile.
    limit: int | None = None
    #: What the model is asked before it describes; `ask` makes it.
    prompt: TokenizedConversation = field(init=False, repr=False)
    description: str = ""
    #: Ids that the model wrote, the end token with them; none if all of a batch's descriptions are given.
    generated: list[int] = field(default_factory=list)
    #: The conversation that the head scores, as far as its context holds it; `converse` makes it.
    conversation: TokenizedConversation = field(init=False, repr=False)
    #: Tokens of `conversation` that the model has read, as those of `prompt` and those that it wrote.
    known: int = 0
    score: AspectScore | None = None
    failure: Failure | None = None

    def ask(self, tokenizer: ConversationTokenizer, max_slices: int) -> None:
        """Make the prompt.

        Raises:
            PromptTooLong: the prompt has more tokens than the original reads.
        """
        prompt = tokenizer.generation_prompt(self.image.grid(max_slices), self.analysis)
        if len(prompt.ids) > MAX_PROMPT_TOKENS:
            raise PromptTooLong(
                f"{self.aspect}: image and prompt take {len(prompt.ids)} tokens of {MAX_PROMPT_TOKENS}; "
                "shorten the prompt"
            )
        self.prompt = prompt

    def converse(self, tokenizer: ConversationTokenizer) -> None:
        """Make the conversation that the head scores, and count its first tokens that the model has read.

        Those are the prompt's and the written ones, as far as the description, tokenised anew, has the same ids.

        Raises:
            PromptTooLong: not even the overview and the analysis fit the head's context.
        """
        self.conversation = self._fitted(tokenizer).within(self.profile.context)
        # The model has not read the last token that it wrote.
        read = replace(self.prompt, ids=self.prompt.ids + self.generated[:-1])
        common = self.conversation.common_tokens(read)
        self.known = min(common, len(self.conversation.ids) - 1)  # leave one token to read

    def _fitted(self, tokenizer: ConversationTokenizer) -> TokenizedConversation:
        """The conversation in the finest grid with which image, analysis and description fit the head's context.

        Where the original would cut off the description, or the image's own tokens, the image is sliced again into
        fewer slices. If the overview alone leaves no room for all of the description, its end is cut.
        """
        context = self.profile.context
        for max_slices in range(self.profile.max_slices, 0, -1):
            grid = self.image.grid(max_slices)
            conversation = tokenizer.scoring_conversation(grid, self.analysis, self.description, self.profile.question)
            if conversation.described <= context:
                return conversation
        asked = len(tokenizer.generation_prompt(grid, self.analysis).ids)
        if asked >= context:
            raise PromptTooLong(
                f"{self.aspect}: image and prompt take {asked} tokens of the head's {context}; shorten the prompt"
            )
        return conversation

    def rate(self, raw: float) -> None:
        """Take the head's score of the conversation.

        Raises:
            ScoreNotFinite: the head returned NaN or infinity.
        """
        if not math.isfinite(raw):
            raise ScoreNotFinite(f"{self.aspect}: the head returned {raw}; check the checkpoint and the dtype")
        score = min(max(raw, 0.0), 5.0)
        self.score = AspectScore(
            score=score,
            rating=Rating.from_score(score),
            description=self.description,
            slices=self.conversation.grid.slices,
            cut_tokens=self.conversation.cut_tokens,
        )


def alive(rows: Sequence[Row]) -> list[Row]:
    """The rows that have not failed."""
    return [row for row in rows if row.failure is None]


@contextmanager
def failing_alone(row: Row) -> Iterator[None]:
    """Record a typed failure in `row` and go on, so that it fails no other row."""
    try:
        yield
    except M3AGIQAError as error:
        row.failure = Failure.from_error(error)
