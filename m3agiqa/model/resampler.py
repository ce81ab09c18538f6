"""Perceiver-style resampler of MiniCPM-V-2.5: turns any number of patch features into a fixed number of embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.functional import linear, pad, scaled_dot_product_attention

#: Width of one attention head.
_HEAD_DIM = 128
_EPS = 1e-6


class Resampler(nn.Module):
    def __init__(self, query_num: int, hidden_size: int, vision_size: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.empty(query_num, hidden_size))
        self.kv_proj = nn.Linear(vision_size, hidden_size, bias=False)
        self.attn = nn.MultiheadAttention(hidden_size, max(hidden_size // _HEAD_DIM, 1), batch_first=True)
        self.ln_q = nn.LayerNorm(hidden_size, eps=_EPS)
        self.ln_kv = nn.LayerNorm(hidden_size, eps=_EPS)
        self.ln_post = nn.LayerNorm(hidden_size, eps=_EPS)
        self.proj = nn.Parameter(torch.empty(hidden_size, hidden_size))

    def forward(self, features: torch.Tensor, sizes: Sequence[tuple[int, int]]) -> torch.Tensor:
        """Attend from the queries to the features, positions added to the keys only and padding masked.

        Args:
            features: [n, Lmax, vision hidden].
            sizes: n times (height, width) in patches; height * width <= Lmax.

        Returns:
            [n, query_num, hidden].
        """
        states = self.ln_kv(self.kv_proj(features))
        longest, hidden = states.shape[1:]
        counts = {(height, width): height * width for height, width in sizes}
        tables = {
            size: pad(sincos_2d(*size, hidden, states.device).to(states.dtype), (0, 0, 0, longest - count))
            for size, count in counts.items()
        }
        mask = None
        if min(counts.values()) < longest:
            real = {size: torch.arange(longest, device=states.device) < count for size, count in counts.items()}
            mask = torch.stack([real[size] for size in sizes])[:, None, None]
        # nn.MultiheadAttention itself would project the same queries anew for every slice.
        query, key, value = zip(self.attn.in_proj_weight.chunk(3), self.attn.in_proj_bias.chunk(3), strict=True)
        attended = scaled_dot_product_attention(
            self._by_head(linear(self.ln_q(self.query), *query).expand(len(sizes), -1, -1)),
            self._by_head(linear(states + torch.stack([tables[size] for size in sizes]), *key)),
            self._by_head(linear(states, *value)),
            attn_mask=mask,
        )
        resampled: torch.Tensor = self.ln_post(self.attn.out_proj(attended.transpose(1, 2).flatten(2))) @ self.proj
        return resampled

    def _by_head(self, states: torch.Tensor) -> torch.Tensor:
        """[n, tokens, hidden] to [n, heads, tokens, width of a head]."""
        heads: torch.Tensor = states.unflatten(-1, (self.attn.num_heads, -1)).transpose(1, 2)
        return heads


def sincos_2d(height: int, width: int, dim: int, device: torch.device | None = None) -> torch.Tensor:
    """Positions [height * width, dim], float32: columns in the first half, rows in the second, each [sin, cos]."""
    rows = torch.arange(height, dtype=torch.float32, device=device).repeat_interleave(width)
    columns = torch.arange(width, dtype=torch.float32, device=device).repeat(height)
    return torch.cat([_sincos(columns, dim // 2), _sincos(rows, dim // 2)], dim=1)


def _sincos(positions: torch.Tensor, dim: int) -> torch.Tensor:
    frequencies = 1.0 / 10000 ** (torch.arange(dim // 2, dtype=torch.float32, device=positions.device) / (dim / 2))
    angles = torch.outer(positions, frequencies)
    return torch.cat([angles.sin(), angles.cos()], dim=1)
