"""The language model, for packed tokens: [tokens, hidden], the rows of a batch one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch.nn.functional import linear

from m3agiqa.engine import ops
from m3agiqa.engine.lora import Groups, LowRank, block_diagonal
from m3agiqa.model.adapters import Adapter
from m3agiqa.model.float8 import Float8Weight, padded, product
from m3agiqa.model.language import LM_HEAD, NORM, LlamaShape
from m3agiqa.model.norms import rms_norm, rms_norm_of_sum

#: Linear layers that read the same input and run as one product.
_FUSED = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "o": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}

#: Attention of one layer: its number, and queries, keys and values side by side as projected, [tokens, widths].
#: Gives [tokens, heads * dim].
Attend = Callable[[int, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Linear:
    """A product, or several side by side, with the adapters' changes."""

    #: [out, in]; where adapters change it, their part of `LowRank` below.
    weight: torch.Tensor | Float8Weight
    change: LowRank | None

    def __call__(self, states: torch.Tensor, groups: Groups) -> torch.Tensor:
        output = product(states, self.weight)
        return output if self.change is None else self.change.added(output, groups)


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
        rounded = any(isinstance(layer.down.weight, Float8Weight) for layer in layers)
        #: What the layers multiply in, by name, as verdicts tell it.
        self.precision = "float8" if rounded else str(self.dtype).removeprefix("torch.")
        steps = torch.arange(0, shape.head_dim, 2, dtype=torch.float32, device=self.device)
        self.frequencies = 1.0 / shape.rope_theta ** (steps / shape.head_dim)

    @classmethod
    def load(
        cls,
        shape: LlamaShape,
        read: Callable[[str], torch.Tensor],
        tables: Sequence[torch.Tensor],
        adapters: Sequence[Adapter],
        *,
        float8: bool = False,
    ) -> Self:
        """Read the layers one by one, fusing linear layers that read the same input; with `float8`, rounding them."""
        layers = []
        for number in range(shape.layers):
            prefix = f"llm.model.layers.{number}."
            fused = {
                name: _fuse([prefix + part for part in parts], read, adapters, float8=float8)
                for name, parts in _FUSED.items()
            }
            layers.append(
                Layer(
                    input_norm=read(prefix + "input_layernorm.weight"),
                    post_norm=read(prefix + "post_attention_layernorm.weight"),
                    **fused,
                )
            )
        return cls(shape, tables, layers, read(NORM), read(LM_HEAD))

    def unfused(self) -> dict[str, torch.Tensor]:
        """The base's tensors by their published names, the embeddings left out; they share memory with ours, unless
        those are in float8.
        """
        tensors = {NORM: self.norm, LM_HEAD: self.lm_head}
        shapes = self.shape.tensors()
        for number, layer in enumerate(self.layers):
            prefix = f"llm.model.layers.{number}."
            tensors[f"{prefix}input_layernorm.weight"] = layer.input_norm
            tensors[f"{prefix}post_attention_layernorm.weight"] = layer.post_norm
            for fused, parts in _FUSED.items():
                names = [f"{prefix}{part}.weight" for part in parts]
                outs = [shapes[name][0] for name in names]
                weight = getattr(layer, fused).weight
                whole = weight.whole(self.dtype) if isinstance(weight, Float8Weight) else weight
                tensors |= dict(zip(names, whole[: sum(outs)].split(outs), strict=True))
        return tensors

    def embed(self, ids: torch.Tensor, groups: Groups) -> torch.Tensor:
        """Ids [tokens] to embeddings [tokens, hidden], each from its own adapter's table."""
        return torch.cat([ops.lookup(ids[rows], self.tables[adapter]) for adapter, rows in groups.parts])

    def forward(self, states: torch.Tensor, groups: Groups, attend: Attend) -> torch.Tensor:
        """Run all layers.

        Args:
            states: embeddings [tokens, hidden]; overwritten.
            groups: the tokens of each adapter.
            attend: rotation and attention over whatever each token may see.

        Returns:
            [tokens, hidden], after the final norm.
        """
        eps = self.shape.eps
        following = [*(layer.input_norm for layer in self.layers[1:]), self.norm]
        normed = rms_norm(states, self.layers[0].input_norm, eps)
        for number, (layer, norm) in enumerate(zip(self.layers, following, strict=True)):
            attended = layer.o(attend(number, layer.qkv(normed, groups)), groups)
            normed = rms_norm_of_sum(states, attended, layer.post_norm, eps)
            changed = layer.down(ops.swiglu(layer.gate_up(normed, groups)), groups)
            normed = rms_norm_of_sum(states, changed, norm, eps)
        return normed

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """[tokens, hidden] to [tokens, vocab]: for the few positions that generate, never a whole conversation."""
        return linear(states, self.lm_head)


def _fuse(
    names: Sequence[str], read: Callable[[str], torch.Tensor], adapters: Sequence[Adapter], *, float8: bool
) -> Linear:
    weights = [read(f"{name}.weight") for name in names]
    weight = torch.cat(weights) if len(weights) > 1 else weights[0]
    if not any(name in adapter.targets for name in names for adapter in adapters):
        return Linear(Float8Weight.from_weight(weight) if float8 else weight, None)
    changes = [
        [adapter.low_rank(name, weight.device) if name in adapter.targets else None for name in names]
        for adapter in adapters
    ]
    rank = max(len(change[0]) for row in changes for change in row if change is not None)
    fused = [block_diagonal(row, [len(part) for part in weights], rank, weight) for row in changes]
    whole = torch.cat([weight, *(a for a, _ in fused)])
    change = LowRank(torch.stack([b for _, b in fused]))
    return Linear(Float8Weight.from_weight(padded(whole)) if float8 else whole, change)
