"""Perceiver-style resampler of MiniCPM-V-2.5: a variable number of patch features to a fixed number of embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

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
        values = self.ln_kv(self.kv_proj(features))
        tables = {size: sincos_2d(*size, values.shape[-1], values.device) for size in set(sizes)}
        positions = pad_sequence([tables[size] for size in sizes], batch_first=True).to(values)
        lengths = [height * width for height, width in sizes]
        padding = torch.arange(values.shape[1]) >= torch.tensor(lengths)[:, None]
        queries = self.ln_q(self.query).expand(len(sizes), -1, -1)
        attended, _ = self.attn(
            queries,
            values + nn.functional.pad(positions, (0, 0, 0, values.shape[1] - positions.shape[1])),
            values,
            key_padding_mask=padding.to(values.device) if min(lengths) < values.shape[1] else None,
            need_weights=False,
        )
        resampled: torch.Tensor = self.ln_post(attended) @ self.proj
        return resampled


def sincos_2d(height: int, width: int, dim: int, device: torch.device | None = None) -> torch.Tensor:
    """Positions [height * width, dim], float32: columns in the first half, rows in the second, each [sin, cos]."""
    rows = torch.arange(height, dtype=torch.float32, device=device).repeat_interleave(width)
    columns = torch.arange(width, dtype=torch.float32, device=device).repeat(height)
    return torch.cat([_sincos(columns, dim // 2), _sincos(rows, dim // 2)], dim=1)


def _sincos(positions: torch.Tensor, dim: int) -> torch.Tensor:
    frequencies = 1.0 / 10000 ** (torch.arange(dim // 2, dtype=torch.float32, device=positions.device) / (dim / 2))
    angles = torch.outer(positions, frequencies)
    return torch.cat([angles.sin(), angles.cos()], dim=1)
