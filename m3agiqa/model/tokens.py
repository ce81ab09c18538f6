"""Turns text into token ids and back: the tokenizer and the two conversations."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from tokenizers import Tokenizer

from m3agiqa.errors import CheckpointError
from m3agiqa.model.slicing import Grid

#: Padding is the token `!`, which the published tokenizer therefore treats as special everywhere.
PAD_ID = 0
PAD = "!"

#: Most ids of a generation prompt, as the original caps it.
MAX_PROMPT_TOKENS = 2048

_BOS, _EOS, _EOT, _UNK = "<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<unk>"
_START_HEADER, _END_HEADER = "<|start_header_id|>", "<|end_header_id|>"
_IMAGE, _END_IMAGE, _SLICE, _END_SLICE = "<image>", "</image>", "<slice>", "</slice>"
#: In a description these would pass for the conversation's own structure.
_STRUCTURE = (_START_HEADER, _END_HEADER, _IMAGE, _END_IMAGE, _SLICE, _END_SLICE)

#: What transformers calls cleaning up tokenisation spaces, in its order.
_CLEAN_UP = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")


@dataclass(frozen=True)
class TokenizedConversation:
    """Token ids, and what the passes need to know about them."""

    #: How the image is cut.
    grid: Grid
    ids: list[int]
    #: [start, end) of the `<unk>` run of each image, overview first.
    image_bounds: list[tuple[int, int]]
    #: Number of ids up to the description's end; all ids if there is no description.
    described: int
    #: Tokens that were cut off at the end.
    cut_tokens: int = 0

    def within(self, context: int) -> Self:
        """The conversation's first `context` tokens."""
        return replace(self, ids=self.ids[:context], cut_tokens=max(0, len(self.ids) - context))

    def common_tokens(self, other: TokenizedConversation) -> int:
        """Number of leading tokens that are the same in both; image tokens are only if it is cut the same way."""
        if self.grid != other.grid:
            return 0
        agree = [mine == theirs for mine, theirs in zip(self.ids, other.ids, strict=False)]
        return agree.index(False) if False in agree else len(agree)


class ConversationTokenizer:
    """The base's tokenizer with its conversation template.

    User text is plain text: what looks like a special token in it is encoded character by character.
    """

    def __init__(self, tokenizer: Tokenizer, query_num: int) -> None:
        self._tokenizer = tokenizer
        self._tokenizer.encode_special_tokens = True
        self._query_num = query_num
        self._special = {token.content: index for index, token in tokenizer.get_added_tokens_decoder().items()}
        missing = [name for name in (_BOS, _EOS, _EOT, _UNK, *_STRUCTURE) if name not in self._special]
        if missing or tokenizer.token_to_id(PAD) != PAD_ID:
            raise CheckpointError(
                f"tokenizer.json is not MiniCPM-Llama3-V-2.5's: no {', '.join(missing) or 'pad token'}"
            )
        self._special[PAD] = PAD_ID
        self._in_descriptions = _splitter(name for name in self._special if name not in _STRUCTURE)
        self._in_prompts = _splitter([PAD])
        self.eos_ids = [self._special[_EOS], self._special[_EOT]]

    @classmethod
    def from_file(cls, path: Path, query_num: int) -> Self:
        """Read `tokenizer.json`.

        Raises:
            CheckpointError: the file is missing, unreadable, or another model's.
        """
        if not path.is_file():
            raise CheckpointError(f"{path} is missing")
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the Rust side raises plain Exception
            raise CheckpointError(f"{path}: {error}") from error
        return cls(tokenizer, query_num)

    def generation_prompt(self, grid: Grid, analysis: str) -> TokenizedConversation:
        """`<|begin_of_text|>`, the user's turn with the image and `analysis`, and the head of the assistant's."""
        builder = self._opened(grid, analysis)
        builder.header("assistant")
        return builder.build()

    def scoring_conversation(self, grid: Grid, analysis: str, description: str, question: str) -> TokenizedConversation:
        """The conversation up to the question's end. The description is tokenised anew: decoding loses tokens."""
        return self._questioned(grid, analysis, description, question).build()

    def rating_prompt(self, grid: Grid, analysis: str, description: str, question: str) -> TokenizedConversation:
        """The whole conversation, and the head of the assistant's turn that answers the question."""
        builder = self._questioned(grid, analysis, description, question)
        builder.header("assistant")
        return builder.build()

    def decode(self, ids: Sequence[int]) -> str:
        """Decode generated ids as the original does: without pads, a leading bos and one trailing end token."""
        kept = [token for token in ids if token != PAD_ID]
        if kept and kept[0] == self._special[_BOS]:
            kept = kept[1:]
        if kept and kept[-1] in self.eos_ids:
            kept = kept[:-1]
        text: str = self._tokenizer.decode(kept, skip_special_tokens=False)
        for spaced in _CLEAN_UP:
            text = text.replace(spaced, spaced.strip())
        return text.strip()

    def _questioned(self, grid: Grid, analysis: str, description: str, question: str) -> _Builder:
        builder = self._opened(grid, analysis)
        builder.header("assistant")
        builder.text(description.strip(), self._in_descriptions)
        builder.end_description()
        builder.special(_EOT)
        builder.header("user")
        builder.text(question.strip(), self._in_prompts)
        builder.special(_EOT)
        return builder

    def _opened(self, grid: Grid, analysis: str) -> _Builder:
        builder = _Builder(self._tokenizer, self._special, grid)
        builder.special(_BOS)
        builder.header("user")
        builder.image(self._query_num)
        if grid.slices:
            builder.special(_SLICE)
            for row in range(grid.rows):
                if row:
                    builder.text("\n", self._in_prompts)
                for _ in range(grid.columns):
                    builder.image(self._query_num)
            builder.special(_END_SLICE)
        builder.text("\n" + analysis.rstrip(), self._in_prompts)
        builder.special(_EOT)
        return builder


class _Builder:
    """Collects ids. Text that follows text is encoded as one piece, for the tokenizer merges across the seam."""

    def __init__(self, tokenizer: Tokenizer, special: dict[str, int], grid: Grid) -> None:
        self._tokenizer = tokenizer
        self._special = special
        self._grid = grid
        self._pending = ""
        self._splitter = re.compile("$^")
        self.ids: list[int] = []
        self._bounds: list[tuple[int, int]] = []
        self._described: int | None = None

    def special(self, name: str) -> None:
        self.flush()
        self.ids.append(self._special[name])

    def header(self, role: str) -> None:
        self.special(_START_HEADER)
        self.text(role, self._splitter)
        self.special(_END_HEADER)
        self.text("\n\n", self._splitter)

    def image(self, query_num: int) -> None:
        self.special(_IMAGE)
        self._bounds.append((len(self.ids), len(self.ids) + query_num))
        self.ids += [self._special[_UNK]] * query_num
        self.special(_END_IMAGE)

    def text(self, text: str, splitter: re.Pattern[str]) -> None:
        """Add plain text in which only what `splitter` matches is a special token."""
        self._pending += text
        self._splitter = splitter

    def flush(self) -> None:
        for piece in self._splitter.split(self._pending):
            if piece in self._special and self._splitter.fullmatch(piece):
                self.ids.append(self._special[piece])
            elif piece:
                self.ids += self._tokenizer.encode(piece, add_special_tokens=False).ids
        self._pending = ""

    def end_description(self) -> None:
        self.flush()
        self._described = len(self.ids)

    def build(self) -> TokenizedConversation:
        self.flush()
        described = len(self.ids) if self._described is None else self._described
        return TokenizedConversation(self._grid, self.ids, self._bounds, described)


def _splitter(names: Sequence[str] | Iterator[str]) -> re.Pattern[str]:
    return re.compile("(" + "|".join(re.escape(name) for name in names) + ")")
