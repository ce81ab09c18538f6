"""Writes the files beside a base's weights: its config.json and its tokenizer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from m3agiqa.model.shape import Shape
from m3agiqa.outputs import write

#: Special tokens of MiniCPM-Llama3-V-2.5, in the order of their ids, behind the vocabulary.
SPECIAL_TOKENS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<unk>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<image>",
    "</image>",
    "<slice>",
    "</slice>",
)


def write_description(folder: Path, shape: Shape, tokenizer: Tokenizer) -> None:
    """Write the files beside a base's weights: config.json and tokenizer.json."""
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "config.json", json.dumps(shape.config(), indent=1) + "\n")
    write(folder / "tokenizer.json", tokenizer.to_str(pretty=True))


def train_tokenizer(texts: Sequence[str], vocab: int) -> Tokenizer:
    """Train a byte-level BPE tokenizer of `vocab` entries, with SPECIAL_TOKENS, whose id 0 is the pad token `!`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab - len(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return tokenizer
