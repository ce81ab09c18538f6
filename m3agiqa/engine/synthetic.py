"""A network of random weights, made in memory: for measuring at the published shapes without a download."""

from __future__ import annotations

import torch
from peft import LoraConfig

from m3agiqa.contract import Aspect
from m3agiqa.engine.network import Network, assemble
from m3agiqa.model.adapters import SAVED_MODULES, Adapter
from m3agiqa.model.head import Head
from m3agiqa.model.language import LlamaShape
from m3agiqa.model.random_weights import (
    Shape,
    adapter_config,
    adapter_tensors,
    base_tensors,
    head_tensors,
    train_tokenizer,
)
from m3agiqa.model.tokens import ConversationTokenizer


def random_network(shape: Shape, *, device: torch.device, dtype: torch.dtype, seed: int = 0) -> Network:
    """A network with an adapter, its saved modules and a head per aspect."""
    base = base_tensors(shape, seed)
    config = shape.config()
    targets = frozenset(name for name in LlamaShape.of(config).linears() if ".self_attn." in name)
    prefixes = tuple(SAVED_MODULES[module] for module in shape.saved)
    adapters = {
        aspect: Adapter(
            name=aspect,
            config=LoraConfig(**adapter_config(shape)),
            files=adapter_tensors(shape, seed + number),
            saved=frozenset(name for name in base.names() if name.startswith(prefixes)),
            targets=targets,
        )
        for number, aspect in enumerate(Aspect, start=1)
    }

    def head(aspect: Aspect, lm_head: torch.Tensor) -> Head:
        tensors = head_tensors(shape, seed + 10 + list(Aspect).index(aspect))
        state = {name.removeprefix("model."): tensors.read(name, device, torch.float32) for name in tensors.names()}
        return Head(state, lm_head)

    tokenizer = ConversationTokenizer(train_tokenizer([str(config)], shape.vocab), shape.queries)
    return assemble(config, base, adapters, head, tokenizer, device=device, dtype=dtype)
