"""The language model as transformers has it, for training, and as a reference for benchmarks and tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import LlamaConfig, LlamaForCausalLM

#: Keys of a MiniCPM-V `config.json` that transformers' Llama calls by the same name.
_SAME = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "rms_norm_eps",
)


def plain_llama(config: Mapping[str, Any]) -> LlamaForCausalLM:
    """`llm` of a base with this `config.json`, its weights random, on torch's default device."""
    rope = {"rope_type": "default", "rope_theta": config.get("rope_theta", 500000.0)}
    same = {key: config[key] for key in _SAME}
    return LlamaForCausalLM(LlamaConfig(**same, rope_parameters=rope, bos_token_id=None, eos_token_id=None))
