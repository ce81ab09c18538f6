"""The regression head: projection, xLSTM stack, masked mean, two linear layers.

It has our own modules, built from a published checkpoint's tensors, so that scoring needs no `xlstm` package or its
dependencies. Everything is float32; a GPU multiplies in float32 or, where that need not be exact, in TF32 and float16.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import nn

from m3agiqa.model.blocks import Norm, below, block, linear
from m3agiqa.model.precision import products

#: Ways to pool the states of all positions into one; the published heads take the mean.
POOLERS = ("mean", "max", "last", "first_last_mean")

_ROWS_AT_ONCE = 48
_STACK = "xlstm_pooler.xlstm_stack."


class Head(nn.Module):
    """Maps the hidden states of a whole conversation to one raw score."""

    def __init__(self, state: Mapping[str, torch.Tensor], lm_head: torch.Tensor) -> None:
        """Build from a checkpoint's tensors, `model.` stripped; shapes say the architecture.

        Args:
            state: `W.*`, `xlstm_pooler.xlstm_stack.*`, `fc.*`, and `pooler` (index in POOLERS) if it is not the mean.
            lm_head: [vocab, hidden], the language model's output layer; `W` is fused through it.
        """
        super().__init__()
        stack = below(state, _STACK)
        kinds = sorted({int(match[1]) for key in stack if (match := re.match(r"blocks\.(\d+)\.", key))})
        self.projection = nn.Linear(lm_head.shape[1], state["W.weight"].shape[0])
        self.projection.weight = nn.Parameter(fuse(state["W.weight"], lm_head))
        self.projection.bias = nn.Parameter(state["W.bias"].float().to(lm_head.device))
        self.blocks = nn.ModuleList(block(below(stack, f"blocks.{index}.")) for index in kinds)
        self.post_blocks_norm = Norm(stack["post_blocks_norm.weight"])
        self.pooler = POOLERS[int(state["pooler"])] if "pooler" in state else "mean"
        self.fc = nn.Sequential(
            linear(state["fc.0.weight"], state["fc.0.bias"]),
            nn.ReLU(),
            linear(state["fc.2.weight"], state["fc.2.bias"]),
        )
        self.to(lm_head.device)
        self.requires_grad_(False)

    def forward(self, hidden: torch.Tensor, lengths: torch.Tensor, *, exact: bool = True) -> torch.Tensor:
        """Score conversations.

        Args:
            hidden: [rows, time, hidden], any dtype: the language model's states after its final norm, right-padded.
            lengths: [rows], int64, positions that count.
            exact: whether a GPU multiplies in float32, or in TF32 and float16, as exact as float16 states are.

        Returns:
            Raw scores [rows], float32, not clamped.
        """
        # A few rows at a time: the mLSTM's weights are quadratic in time.
        parts = zip(hidden.split(_ROWS_AT_ONCE), lengths.split(_ROWS_AT_ONCE), strict=True)
        with products(exact=exact):
            return torch.cat([self._score(*part, exact=exact) for part in parts])

    def _score(self, hidden: torch.Tensor, lengths: torch.Tensor, *, exact: bool) -> torch.Tensor:
        states = self.projection(hidden.float())
        for layer in self.blocks:
            states = layer(states, exact=exact)
        states = self.post_blocks_norm(states)
        scores: torch.Tensor = self.fc(pool(states, lengths, self.pooler)).squeeze(-1)
        return scores


def pool(states: torch.Tensor, lengths: torch.Tensor, pooler: str) -> torch.Tensor:
    """Pool the states of all positions into one.

    Args:
        states: [rows, time, width], right-padded.
        lengths: [rows], int64, positions that count.
        pooler: one of POOLERS.

    Returns:
        [rows, width].
    """
    if pooler in ("last", "first_last_mean"):
        last = states[torch.arange(len(states), device=states.device), lengths - 1]
        return last if pooler == "last" else (states[:, 0] + last) / 2
    counted = (torch.arange(states.shape[1], device=states.device) < lengths[:, None])[..., None]
    if pooler == "max":
        return states.masked_fill(~counted, -torch.inf).amax(dim=1)
    return states.masked_fill(~counted, 0).sum(dim=1) / lengths[:, None]


def fuse(projection: torch.Tensor, lm_head: torch.Tensor) -> torch.Tensor:
    """`projection @ lm_head`, float32 on lm_head's device: W(lm_head(h)) without logits [.., vocab] in between.

    It multiplies in blocks of the vocabulary, so that a float16 lm_head needs no whole float32 copy.
    """
    fused = torch.zeros(projection.shape[0], lm_head.shape[1], device=lm_head.device, dtype=torch.float64)
    for start in range(0, lm_head.shape[0], 8192):
        block = slice(start, start + 8192)
        fused += projection[:, block].to(lm_head.device).double() @ lm_head[block].double()
    return fused.float()
