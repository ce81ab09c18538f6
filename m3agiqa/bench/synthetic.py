"""Makes a network with random weights in memory, to measure the published shapes without a download."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from peft import LoraConfig
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from m3agiqa.bench.random_weights import adapter_config, adapter_tensors, base_tensors, head_tensors
from m3agiqa.contract import Aspect
from m3agiqa.engine.loading import Network, assemble
from m3agiqa.model.adapters import SAVED_MODULES, Adapter
from m3agiqa.model.checkpoints import Tensors
from m3agiqa.model.head import Head
from m3agiqa.model.language import LlamaShape
from m3agiqa.model.shape import Shape
from m3agiqa.model.tokens import PAD, PAD_ID, ConversationTokenizer
from m3agiqa.model.writing import SPECIAL_TOKENS
from m3agiqa.progress import Progress, unseen


def random_network(
    shape: Shape,
    *,
    device: torch.device,
    dtype: torch.dtype,
    seed: int = 0,
    stored: torch.dtype | None = None,
    float8: bool = False,
    progress: Progress = unseen,
) -> Network:
    """Make a network with an adapter, its saved modules and a head per aspect.

    Args:
        shape: sizes.
        device: where it is made.
        dtype: type it computes in; heads compute in float32.
        seed: the same gives the same weights.
        stored: type that weights other than the heads' are rounded to, as in a checkpoint; None rounds nothing.
        float8: whether the language model's layers are rounded to float8.
        progress: called as weights are made.
    """
    base: Tensors = _rounded(base_tensors(shape, seed), stored)
    config = shape.config()
    targets = frozenset(name for name in LlamaShape.from_config(config).linears() if ".self_attn." in name)
    prefixes = tuple(SAVED_MODULES[module] for module in shape.saved)
    adapters = {
        aspect: Adapter(
            name=aspect,
            config=LoraConfig(**adapter_config(shape)),
            files=_rounded(adapter_tensors(shape, seed + number), stored),
            saved=frozenset(name for name in base.names() if name.startswith(prefixes)),
            targets=targets,
        )
        for number, aspect in enumerate(Aspect, start=1)
    }

    def make_heads(lm_head: torch.Tensor) -> dict[Aspect, Head]:
        made = {}
        for number, aspect in enumerate(Aspect):
            tensors = head_tensors(shape, seed + 10 + number)
            state = {name.removeprefix("model."): tensors.read(name, device, torch.float32) for name in tensors.names()}
            made[aspect] = Head(state, lm_head)
        return made

    tokenizer = _tokenizer(shape)
    return assemble(
        config, base, adapters, make_heads, tokenizer, device=device, dtype=dtype, float8=float8, progress=progress
    )


@dataclass(frozen=True)
class _Rounded:
    tensors: Tensors
    dtype: torch.dtype

    def names(self) -> list[str]:
        return self.tensors.names()

    def count(self, key: str) -> int:
        return self.tensors.count(key)

    def read(self, key: str, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
        return self.tensors.read(key, device, self.dtype).to(dtype)


def _rounded(tensors: Tensors, dtype: torch.dtype | None) -> Tensors:
    return tensors if dtype is None else _Rounded(tensors, dtype)


def _tokenizer(shape: Shape) -> ConversationTokenizer:
    """A tokenizer with one word for every id.

    Tokenising generated text again gives back the same ids, so a description has as many tokens as were asked for.
    """
    words = {PAD: PAD_ID, **{f"w{number}": number for number in range(1, shape.vocab - len(SPECIAL_TOKENS))}}
    tokenizer = Tokenizer(models.WordLevel(words, "w1"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return ConversationTokenizer(tokenizer, shape.queries)
