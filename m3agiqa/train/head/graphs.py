"""A head's training pass as CUDA graphs: its sLSTM is thousands of small kernels, slower to launch than to run."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn.functional import pad

from m3agiqa.train.head.module import HeadModule

#: Tokens to whose multiples conversations are padded, so that few graphs serve all batches.
_LENGTHS = 64


class TrainingPass:
    """Runs `module` forward and backward, on a GPU in graphs where a batch has `rows` rows, else without graphs."""

    def __init__(self, module: HeadModule, rows: int) -> None:
        self._module = module
        self._rows = rows
        self._graphs: dict[tuple[int, ...], Any] = {}

    def __call__(self, hidden: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Raw scores [rows] of states [rows, time, hidden], right-padded, of which `lengths` [rows] count."""
        scores: torch.Tensor
        if not hidden.is_cuda or len(hidden) != self._rows:
            scores = self._module(hidden, lengths)
            return scores
        time = min(math.ceil(hidden.shape[1] / _LENGTHS) * _LENGTHS, self._module.context)
        hidden = pad(hidden, (0, 0, 0, time - hidden.shape[1]))
        if hidden.shape not in self._graphs:
            # The first graph was captured on a stream of its own, where the gradients' sums stay: torch waits for it.
            torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)
            # A module of its own: capturing replaces its `forward`.
            whole = _Whole(self._module).train()
            self._graphs[hidden.shape] = torch.cuda.make_graphed_callables(whole, (hidden, lengths))
        scores = self._graphs[hidden.shape](hidden, lengths)
        return scores


class _Whole(nn.Module):
    def __init__(self, module: HeadModule) -> None:
        super().__init__()
        self.module = module

    def forward(self, hidden: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.module(hidden, lengths)
        return scores
