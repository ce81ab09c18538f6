"""The original's algorithm, written plainly as a baseline.

It uses transformers' `generate` and peft's adapters, computes logits at every position, and takes one image and aspect
at a time. All weights are loaded beforehand.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
)
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from m3agiqa.bench.random_weights import adapter_config
from m3agiqa.contract import Aspect
from m3agiqa.engine.clock import Clock
from m3agiqa.engine.loading import Network
from m3agiqa.engine.lora import Groups
from m3agiqa.images import DecodedImage
from m3agiqa.model.language import EMBEDDING
from m3agiqa.model.plain import plain_llama
from m3agiqa.model.shape import Shape
from m3agiqa.profile import ModelProfile


class Baseline(nn.Module):
    """The original's model, sharing a synthetic network's weights so that both fit one GPU."""

    def __init__(self, network: Network, shape: Shape, profile: ModelProfile) -> None:
        super().__init__()
        self.network, self.profile = network, profile
        config = shape.config()
        with torch.device("meta"):
            self.llm = plain_llama(config)
        llama = network.language
        self.load_state_dict({**llama.unfused(), EMBEDDING: llama.tables[0].to(llama.device)}, strict=True, assign=True)
        self.llm.model.rotary_emb = LlamaRotaryEmbedding(self.llm.config).to(llama.device)
        lora = LoraConfig(**{**adapter_config(shape), "modules_to_save": None})
        inject_adapter_in_model(lora, self)
        for name, parameter in self.llm.named_parameters():
            if "lora_" in name:  # float32 on a float16 base, as peft 0.12 had it
                parameter.data = torch.randn(parameter.shape, device=llama.device) / parameter.shape[-1] ** 0.5
        self.W = nn.Linear(shape.vocab, shape.head_width, device=llama.device, dtype=llama.dtype)
        self.eval()
        self.requires_grad_(False)

    @torch.inference_mode()
    def score(self, image: DecodedImage, prompt: str, aspect: Aspect) -> tuple[float, dict[str, float]]:
        """Score one image and aspect; return the raw score and milliseconds by stage."""
        network, part = self.network, self.profile.aspects[aspect]
        clock = Clock(network.language.device)
        grid = network.slicing.grid(*image.rgb.size, self.profile.describe.max_slices)
        slices = network.slicing.cut(image.rgb, grid)
        clock.mark("pixels")
        features = network.towers[aspect]([slices])[0]
        clock.mark("vision")
        analysis = part.analysis.replace("{prompt}", prompt)
        conversation = network.tokenizer.generation_prompt(grid, analysis)
        embeds = self._embed(conversation.ids, conversation.image_bounds, features)
        describe = self.profile.describe
        generated = cast("Any", self.llm).generate(
            inputs_embeds=embeds,
            attention_mask=torch.ones(embeds.shape[:2], dtype=torch.int64, device=embeds.device),
            generation_config=GenerationConfig(
                num_beams=describe.num_beams,
                max_new_tokens=describe.max_new_tokens,
                do_sample=False,
                pad_token_id=0,
                eos_token_id=network.tokenizer.eos_ids,
            ),
            logits_processor=LogitsProcessorList([RepetitionPenaltyLogitsProcessor(describe.repetition_penalty)]),
        )
        description = network.tokenizer.decode(generated[0].tolist())
        clock.mark("generate")
        # The original encodes the image again for its scoring pass.
        features = network.towers[aspect]([slices])[0]
        clock.mark("vision")
        conversation = network.tokenizer.scoring_conversation(grid, analysis, description, part.question)
        embeds = self._embed(conversation.ids[: part.context], conversation.image_bounds, features)
        logits = self.llm(inputs_embeds=embeds, use_cache=False).logits
        clock.mark("score")
        states = self.W(logits).float()
        clock.mark("project")
        head = network.heads[aspect]
        for block in head.blocks:
            states = block(states)
        score = float(head.fc(head.post_blocks_norm(states).mean(dim=1)))
        clock.mark("head")
        return score, clock.times_ms()

    def _embed(self, ids: list[int], bounds: list[tuple[int, int]], features: torch.Tensor) -> torch.Tensor:
        llama = self.network.language
        tokens = torch.tensor(ids, device=llama.device)
        embedded = llama.embed(tokens, Groups.from_counts([(0, len(ids))], len(llama.tables)))
        for (start, end), part in zip(bounds, features, strict=True):
            embedded[start:end] = part
        return embedded[None]
