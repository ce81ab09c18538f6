"""The language model, a Llama, for packed tokens: [tokens, hidden], the rows of a batch one after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch.nn.functional import embedding, linear, rms_norm, silu

from m3agiqa.model.adapters import Adapter
from m3agiqa.model.lora import Groups, LowRank, block_diagonal

EMBEDDING = "llm.model.embed_tokens.weight"
_NORM = "llm.model.norm.weight"
_LM_HEAD = "llm.lm_head.weight"

#: Layers that read the same input, run as one product.
_FUSED = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "o": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}

#: Attention of one layer: its number, and queries, keys and values [tokens, heads, dim]; gives [tokens, heads, dim].
Attend = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


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
    def of(cls, config: Mapping[str, Any]) -> Self:
        """From a MiniCPM-V `config.json`."""
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
        return shapes | {_NORM: (self.hidden,), _LM_HEAD: (self.vocab, self.hidden)}

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


@dataclass(frozen=True)
class Linear:
    """A product, or several side by side, with the adapters' changes."""

    weight: torch.Tensor
    change: LowRank | None

    def __call__(self, states: torch.Tensor, groups: Groups) -> torch.Tensor:
        output = linear(states, self.weight)
        if self.change is not None:
            self.change.add_(output, states, groups)
        return output


@dataclass(frozen=True)
class Layer:
    input_norm: torch.Tensor
    qkv: Linear
    o: Linear
    post_norm: torch.Tensor
    gate_up: Linear
    down: Linear


class Llama:
    """The language model of all aspects: one base, a table of embeddings and low-rank changes per adapter."""

    def __init__(
        self,
        shape: LlamaShape,
        tables: Sequence[torch.Tensor],
        layers: Sequence[Layer],
        norm: torch.Tensor,
        lm_head: torch.Tensor,
    ) -> None:
        self.shape = shape
        self.tables = tables
        self.layers = layers
        self.norm = norm
        self.lm_head = lm_head
        self.device, self.dtype = lm_head.device, lm_head.dtype
        steps = torch.arange(0, shape.head_dim, 2, dtype=torch.float32, device=self.device)
        self._frequencies = 1.0 / shape.rope_theta ** (steps / shape.head_dim)

    @classmethod
    def load(
        cls,
        shape: LlamaShape,
        read: Callable[[str], torch.Tensor],
        tables: Sequence[torch.Tensor],
        adapters: Sequence[Adapter],
    ) -> Self:
        """Read the layers one by one, fusing what reads the same input."""
        layers = []
        for number in range(shape.layers):
            prefix = f"llm.model.layers.{number}."
            fused = {name: _fuse([prefix + part for part in parts], read, adapters) for name, parts in _FUSED.items()}
            layers.append(
                Layer(
                    input_norm=read(prefix + "input_layernorm.weight"),
                    post_norm=read(prefix + "post_attention_layernorm.weight"),
                    **fused,
                )
            )
        return cls(shape, tables, layers, read(_NORM), read(_LM_HEAD))

    def embed(self, ids: torch.Tensor, groups: Groups) -> torch.Tensor:
        """Ids [tokens] to embeddings [tokens, hidden], each from its own adapter's table."""
        return torch.cat([embedding(ids[rows], self.tables[adapter]) for adapter, rows in groups.parts])

    def forward(self, states: torch.Tensor, positions: torch.Tensor, groups: Groups, attend: Attend) -> torch.Tensor:
        """Run all layers.

        Args:
            states: embeddings [tokens, hidden].
            positions: [tokens], int64, of each token in its own sequence.
            groups: the tokens of each adapter.
            attend: attention over whatever each token may see.

        Returns:
            [tokens, hidden], after the final norm.
        """
        cos, sin = self._rotation(positions)
        shape = self.shape
        widths = [shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim, shape.kv_heads * shape.head_dim]
        for number, layer in enumerate(self.layers):
            normed = rms_norm(states, (shape.hidden,), layer.input_norm, shape.eps)
            queries, keys, values = layer.qkv(normed, groups).split(widths, dim=-1)
            attended = attend(
                number,
                _rotated(queries.unflatten(-1, (-1, shape.head_dim)), cos, sin),
                _rotated(keys.unflatten(-1, (-1, shape.head_dim)), cos, sin),
                values.unflatten(-1, (-1, shape.head_dim)),
            )
            states = states + layer.o(attended.flatten(-2), groups)
            normed = rms_norm(states, (shape.hidden,), layer.post_norm, shape.eps)
            gate, up = layer.gate_up(normed, groups).chunk(2, dim=-1)
            states = states + layer.down(silu(gate) * up, groups)
        return rms_norm(states, (shape.hidden,), self.norm, shape.eps)

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """[tokens, hidden] to [tokens, vocab]: for the few positions that generate, never a whole conversation."""
        return linear(states, self.lm_head)

    def _rotation(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        angles = torch.outer(positions.float(), self._frequencies)
        angles = torch.cat([angles, angles], dim=-1)[:, None]
        return angles.cos().to(self.dtype), angles.sin().to(self.dtype)


def _rotated(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary position embedding (arXiv 2104.09864), halves paired as in Llama."""
    first, second = states.chunk(2, dim=-1)
    return states * cos + torch.cat([-second, first], dim=-1) * sin


def _fuse(names: Sequence[str], read: Callable[[str], torch.Tensor], adapters: Sequence[Adapter]) -> Linear:
    weights = [read(f"{name}.weight") for name in names]
    weight = torch.cat(weights) if len(weights) > 1 else weights[0]
    if not any(name in adapter.targets for name in names for adapter in adapters):
        return Linear(weight, None)
    changes = [
        [adapter.low_rank(name, weight.device) if name in adapter.targets else None for name in names]
        for adapter in adapters
    ]
    rank = max(len(change[0]) for row in changes for change in row if change is not None)
    fused = [block_diagonal(row, [len(part) for part in weights], rank, weight) for row in changes]
    return Linear(weight, LowRank(torch.stack([a for a, _ in fused]), torch.stack([b for _, b in fused])))
