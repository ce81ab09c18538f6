"""The language model's sizes and the names of its tensors; `m3agiqa.engine` runs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

EMBEDDING = "llm.model.embed_tokens.weight"
NORM = "llm.model.norm.weight"
LM_HEAD = "llm.lm_head.weight"


@dataclass(frozen=True)
class LlamaShape:
    vocab: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    ffn: int
    eps: float
    rope_theta: float

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Read the shape from a MiniCPM-V `config.json`."""
        return cls(
            vocab=config["vocab_size"],
            hidden=config["hidden_size"],
            layers=config["num_hidden_layers"],
            heads=config["num_attention_heads"],
            kv_heads=config["num_key_value_heads"],
            ffn=config["intermediate_size"],
            eps=config["rms_norm_eps"],
            rope_theta=config.get("rope_theta", 500000.0),
        )

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor, as in the published checkpoint."""
        shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (self.vocab, self.hidden)}
        for layer in range(self.layers):
            prefix = f"llm.model.layers.{layer}."
            shapes |= {f"{prefix}{name}.weight": shape for name, shape in self._linears().items()}
            shapes |= {
                f"{prefix}{name}.weight": (self.hidden,) for name in ("input_layernorm", "post_attention_layernorm")
            }
        return shapes | {NORM: (self.hidden,), LM_HEAD: (self.vocab, self.hidden)}

    def linears(self) -> list[str]:
        """Names of the linear layers, which adapters may change."""
        return [f"llm.model.layers.{layer}.{name}" for layer in range(self.layers) for name in self._linears()]

    def _linears(self) -> dict[str, tuple[int, int]]:
        kv = self.kv_heads * self.head_dim
        return {
            "self_attn.q_proj": (self.hidden, self.hidden),
            "self_attn.k_proj": (kv, self.hidden),
            "self_attn.v_proj": (kv, self.hidden),
            "self_attn.o_proj": (self.hidden, self.hidden),
            "mlp.gate_proj": (self.ffn, self.hidden),
            "mlp.up_proj": (self.ffn, self.hidden),
            "mlp.down_proj": (self.hidden, self.ffn),
        }
