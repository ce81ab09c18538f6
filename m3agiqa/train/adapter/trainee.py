"""The model that is fine-tuned: transformers' Llama and our vision tower under the published names, with gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from m3agiqa.errors import CheckpointError
from m3agiqa.model.checkpoints import TensorFiles, read_json
from m3agiqa.model.plain import plain_llama
from m3agiqa.model.slicing import Slices
from m3agiqa.model.vision import Tower

#: Pattern of the modules that LoRA changes, as the published adapters write it.
TARGETS = r"llm\..*layers\.\d+\.self_attn\.(q_proj|k_proj|v_proj|o_proj)"


class Trainee(nn.Module):
    """The base model: `llm.*`, `vpm.*` and `resampler.*`."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.llm = plain_llama(config)
        tower = Tower(config["vision_config"], config["hidden_size"], config["query_num"])
        self.vpm, self.resampler = tower.vpm, tower.resampler

    @classmethod
    def load(cls, base: Path, device: torch.device, dtype: torch.dtype) -> Trainee:
        """Read a base's weights, and freeze them.

        Raises:
            CheckpointError: weights are missing, or do not fit.
        """
        with torch.device("meta"):
            trainee = cls(read_json(base / "config.json"))
        files = TensorFiles.in_folder(base, "model")
        try:
            trainee.load_state_dict(
                {key: files.read(key, device, dtype) for key in trainee.state_dict()}, strict=True, assign=True
            )
        except RuntimeError as error:
            raise CheckpointError(f"{base}: {' '.join(str(error).split())}") from error
        rotary = trainee.llm.model.rotary_emb
        # Its values are computed, so no checkpoint has them.
        trainee.llm.model.rotary_emb = type(rotary)(trainee.llm.config).to(device)
        return trainee.requires_grad_(False)

    def forward(
        self, input_ids: torch.Tensor, labels: torch.Tensor, slices: Slices, bounds: list[tuple[int, int]]
    ) -> dict[str, torch.Tensor]:
        """The loss of one conversation.

        Args:
            input_ids: [1, tokens].
            labels: [1, tokens], -100 where nothing is to be learned.
            slices: the image.
            bounds: [start, end) of each slice's positions in `input_ids`.
        """
        embedded = self.embed(input_ids, slices, bounds)
        loss = self.llm(inputs_embeds=embedded, labels=labels, use_cache=False).loss
        return {"loss": loss}

    def embed(self, input_ids: torch.Tensor, slices: Slices, bounds: list[tuple[int, int]]) -> torch.Tensor:
        """Embeddings [1, tokens, hidden] of the tokens, with the image's features at its positions."""
        embedded: torch.Tensor = self.llm.get_input_embeddings()(input_ids)[0]
        # peft may have wrapped the modules that Tower.encode calls.
        features = Tower.encode(self, slices.patches)  # type: ignore[arg-type]
        images = self.resampler(features, slices.sizes).to(embedded.dtype)
        positions = torch.cat([torch.arange(start, end) for start, end in bounds]).to(embedded.device)
        return embedded.index_copy(0, positions, images.flatten(0, 1))[None]

    def recompute(self) -> None:
        """Compute activations again in the backward pass instead of keeping them."""
        for module in (self.llm, self.vpm):
            # Newer versions of transformers have another name for it.
            newer = getattr(module, "activation_checkpointing_enable", None)
            (newer or module.gradient_checkpointing_enable)({"use_reentrant": False})


def adapted(trainee: Trainee, rank: int, saved: list[str]) -> PeftModel:
    """Add LoRA to `trainee`. Its parameters, and those of the modules in `saved`, are trainable, in float32."""
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=TARGETS, modules_to_save=saved or None, bias="none")
    model = get_peft_model(trainee, config)
    for parameter in model.parameters():
        if parameter.requires_grad:
            # Half precision would round steps of 1e-6 to nothing.
            parameter.data = parameter.data.float()
    return model
