"""The language model: descriptions by beam search, and hidden states of whole conversations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
)
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from m3agiqa.model.adapters import Routing
from m3agiqa.model.tokens import PAD_ID
from m3agiqa.profile import Describe

_CONFIG_KEYS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "max_position_embeddings",
    "rms_norm_eps",
    "attention_bias",
    "tie_word_embeddings",
)


class Language(nn.Module):
    """`llm.*` of a checkpoint, adapters' layers in place."""

    def __init__(self, config: dict[str, Any], routing: Routing) -> None:
        super().__init__()
        self.llm = LlamaForCausalLM(llama_config(config))
        self.routing = routing

    def materialise(self, device: torch.device) -> None:
        """Make what no checkpoint holds; the rest came by assignment."""
        self.llm.model.rotary_emb = LlamaRotaryEmbedding(self.llm.config).to(device)

    def embed(
        self, ids: Sequence[int], adapter: int, image: torch.Tensor, bounds: Sequence[tuple[int, int]]
    ) -> torch.Tensor:
        """Token embeddings of one conversation with its pictures' in their places.

        Args:
            image: [pictures, query_num, hidden].
            bounds: [start, end) of each picture's positions.

        Returns:
            [time, hidden].
        """
        with self.routing.rows([(adapter, 1)]):
            embedded: torch.Tensor = self.llm.model.embed_tokens(torch.tensor([ids], device=image.device))[0]
        for (start, end), picture in zip(bounds, image, strict=True):
            embedded[start:end] = picture
        return embedded

    def generate(
        self, prompts: Sequence[torch.Tensor], groups: Sequence[tuple[int, int]], describe: Describe, eos_ids: list[int]
    ) -> list[list[int]]:
        """Continue each prompt by beam search (greedy with one beam).

        From embeddings alone, so that the repetition penalty sees generated tokens only, as in the original.

        Args:
            prompts: embeddings [time, hidden], sorted by adapter.
            groups: (adapter, rows), in order.

        Returns:
            Generated ids per prompt, the end token with them, padding without.
        """
        longest = max(len(prompt) for prompt in prompts)
        embeds = torch.stack([nn.functional.pad(prompt, (0, 0, longest - len(prompt), 0)) for prompt in prompts])
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        with self.routing.rows(groups):
            generated: torch.Tensor = cast("Any", self.llm).generate(
                inputs_embeds=embeds,
                attention_mask=mask.to(embeds.device),
                generation_config=GenerationConfig(
                    num_beams=describe.num_beams,
                    max_new_tokens=describe.max_new_tokens,
                    length_penalty=1.0,
                    early_stopping=False,
                    do_sample=False,
                    pad_token_id=PAD_ID,
                    eos_token_id=eos_ids,
                ),
                logits_processor=LogitsProcessorList([RepetitionPenaltyLogitsProcessor(describe.repetition_penalty)]),
            )
        return [_until_end(row, eos_ids) for row in generated.tolist()]

    def hidden_states(self, conversations: Sequence[torch.Tensor], groups: Sequence[tuple[int, int]]) -> torch.Tensor:
        """Last hidden states after the final norm.

        Args:
            conversations: embeddings [time, hidden], sorted by adapter.
            groups: (adapter, rows), in order.

        Returns:
            [rows, longest, hidden], right-padded; attention is causal, so padding changes nothing before it.
        """
        with self.routing.rows(groups):
            states: torch.Tensor = self.llm.model(
                inputs_embeds=pad_sequence(list(conversations), batch_first=True), use_cache=False
            ).last_hidden_state
        return states


def llama_config(config: dict[str, Any]) -> LlamaConfig:
    """The part of a MiniCPM-V `config.json` that is Llama's."""
    known = {key: config[key] for key in _CONFIG_KEYS if key in config}
    llama = LlamaConfig(
        **known,
        rope_parameters={"rope_type": "default", "rope_theta": config.get("rope_theta", 500000.0)},
        bos_token_id=None,
        eos_token_id=None,
    )
    llama._attn_implementation = "sdpa"
    return llama


def _until_end(ids: list[int], eos_ids: list[int]) -> list[int]:
    """Ids up to and with the first end token: what follows is padding of a batch."""
    for position, token in enumerate(ids):
        if token in eos_ids:
            return ids[: position + 1]
    return ids
