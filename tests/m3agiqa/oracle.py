"""The language model as transformers and peft run it, for ours to be held against."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
from safetensors.torch import load_file
from torch import nn
from transformers import GenerationConfig, LogitsProcessorList
from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor

from m3agiqa.model.checkpoints import read_json
from m3agiqa.model.plain import plain_llama
from m3agiqa.profile import Describe


class Oracle(nn.Module):
    """`llm.*` of a base, float32, with an adapter's LoRA by peft if one is given."""

    def __init__(self, base: Path, adapter: Path | None = None) -> None:
        super().__init__()
        config = read_json(base / "config.json")
        self.llm = plain_llama(config)
        state = load_file(base / "model.safetensors")
        self.load_state_dict({key: tensor.float() for key, tensor in state.items() if key.startswith("llm.")})
        if adapter is not None:
            self._adapt(adapter)
        self.eval()

    def _adapt(self, adapter: Path) -> None:
        prefix = "base_model.model."
        tensors = {
            key.removeprefix(prefix): tensor.float()
            for key, tensor in load_file(adapter / "adapter_model.safetensors").items()
        }
        if (table := tensors.get("llm.model.embed_tokens.weight")) is not None:
            self.llm.model.embed_tokens.weight.data = table
        config = LoraConfig.from_pretrained(adapter)
        config.modules_to_save = None
        inject_adapter_in_model(config, self)
        set_peft_model_state_dict(self, {key: tensor for key, tensor in tensors.items() if "lora" in key})

    @torch.inference_mode()
    def states(self, embeddings: torch.Tensor) -> torch.Tensor:
        """[tokens, hidden] to the last states [tokens, hidden]."""
        return self.llm.model(inputs_embeds=embeddings[None]).last_hidden_state[0]

    @torch.inference_mode()
    def generate(self, embeddings: torch.Tensor, describe: Describe, eos_ids: list[int]) -> list[int]:
        """Ids that transformers generates behind one prompt, the end token with them."""
        config = GenerationConfig(
            num_beams=describe.num_beams,
            max_new_tokens=describe.max_new_tokens,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=eos_ids,
        )
        penalty = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(describe.repetition_penalty)])
        row = self.llm.generate(
            inputs_embeds=embeddings[None],
            attention_mask=torch.ones(1, len(embeddings), dtype=torch.int64),
            generation_config=config,
            logits_processor=penalty,
        )[0].tolist()
        ends = [position for position, token in enumerate(row) if token in eos_ids]
        return row[: ends[0] + 1] if ends else row
