"""The head that is trained: the xlstm package's stack, under the published names."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save
from torch import nn
from xlstm import (
    FeedForwardConfig,
    mLSTMBlockConfig,
    mLSTMLayerConfig,
    sLSTMBlockConfig,
    sLSTMLayerConfig,
    xLSTMBlockStack,
    xLSTMBlockStackConfig,
)
from xlstm.blocks.slstm.cell import sLSTMCell

from m3agiqa.model.head import POOLERS, pool
from m3agiqa.model.slstm import empty_memory, slstm_step
from m3agiqa.outputs import write
from m3agiqa.train.head.settings import HeadShape
from m3agiqa.train.run import saved

_FC_WIDTH = 128


class HeadModule(nn.Module):
    """Regresses raw scores from the hidden states of whole conversations, with gradients.

    As in the published heads, `W` follows the language model's output layer. Both are linear, so they are multiplied
    first, and no logits [tokens, vocab] exist.
    """

    lm_head: torch.Tensor

    def __init__(self, shape: HeadShape, context: int, lm_head: torch.Tensor) -> None:
        """Initialise from torch's current seed: Xavier for W and fc, the package's own for its stack.

        Args:
            shape: sizes of the head.
            context: tokens of the longest conversation.
            lm_head: [vocab, hidden], the language model's output layer.
        """
        super().__init__()
        self.pooler = shape.pooler
        self.context = context
        self.register_buffer("lm_head", lm_head.float(), persistent=False)
        self.W = nn.Linear(lm_head.shape[0], shape.width)
        self.xlstm_pooler = nn.ModuleDict({"xlstm_stack": _stack(shape, context)})
        inner, last = nn.Linear(shape.width, _FC_WIDTH), nn.Linear(_FC_WIDTH, 1)
        self.fc = nn.Sequential(inner, nn.ReLU(), last)
        for linear in (self.W, inner, last):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)
        self.to(lm_head.device)

    def forward(self, hidden: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Raw scores [rows] of states [rows, time, hidden], right-padded, of which `lengths` [rows] count."""
        states = nn.functional.linear(hidden.float(), self.W.weight @ self.lm_head, self.W.bias)
        scores: torch.Tensor = self.fc(pool(self.xlstm_pooler["xlstm_stack"](states), lengths, self.pooler))
        return scores.squeeze(-1)

    def published(self) -> dict[str, torch.Tensor]:
        """All weights under the published names, those of the sLSTM in the CUDA backend's layout.

        A pooler other than the mean adds `model.pooler`, which the published heads do not have.
        """
        state = {key: tensor.detach().cpu() for key, tensor in self.state_dict().items()}
        for key in [key for key in state if key.endswith("slstm_cell._recurrent_kernel_")]:
            kernel = state[key]
            heads, _, dim = kernel.shape
            state[key] = kernel.view(heads, 4, dim, dim).permute(0, 3, 1, 2).reshape(heads, dim, 4 * dim)
            bias = key.replace("_recurrent_kernel_", "_bias_")
            state[bias] = state[bias].view(4, heads, dim).permute(1, 0, 2).reshape(-1)
        if self.pooler != "mean":
            state["pooler"] = torch.tensor(POOLERS.index(self.pooler))
        return {f"model.{key}": tensor.contiguous() for key, tensor in state.items()}


def save_head(module: HeadModule, *paths: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write a head to each path, in its format: `.safetensors`, or the published `.ckpt`."""
    state = {
        key: tensor.to(dtype) if tensor.is_floating_point() else tensor for key, tensor in module.published().items()
    }
    for path in paths:
        write(path, save(state) if path.suffix == ".safetensors" else saved({"state_dict": state}))


def _stack(shape: HeadShape, context: int) -> xLSTMBlockStack:
    stack = xLSTMBlockStack(
        xLSTMBlockStackConfig(
            mlstm_block=mLSTMBlockConfig(
                mlstm=mLSTMLayerConfig(conv1d_kernel_size=4, qkv_proj_blocksize=4, num_heads=shape.heads)
            ),
            slstm_block=sLSTMBlockConfig(
                # The CUDA backend would compile with nvcc at run time, and compute in bfloat16.
                slstm=sLSTMLayerConfig(backend="vanilla", num_heads=shape.heads, conv1d_kernel_size=4),
                feedforward=FeedForwardConfig(proj_factor=1.3, act_fn="gelu"),
            ),
            context_length=context,
            num_blocks=shape.blocks,
            embedding_dim=shape.width,
            slstm_at=list(shape.slstm_at),
        )
    )
    for index in shape.slstm_at:
        cell = stack.blocks[index].xlstm.slstm_cell
        cell._impl = partial(unrolled, cell)
    return stack


def unrolled(cell: sLSTMCell, training: bool, inputs: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
    """The sLSTM's recurrence for training, in place of the package's own, whose loop writes every step into one tensor:
    its backward pass copies all of that tensor at each step.

    Args:
        cell: the package's, vanilla backend.
        training: not used.
        inputs: [time, batch, 4 * heads * dim], gates in the order i, f, z, o.
        state: not used: a conversation starts from nothing.

    Returns:
        [1, 1 + time, batch, heads * dim]: hidden states, a zero before the first.
    """
    heads, dim = cell.config.num_heads, cell.config.head_dim
    time, batch, _ = inputs.shape
    steps = (
        (inputs + cell._bias).view(time, batch, 4, heads, dim).permute(0, 3, 1, 2, 4).reshape(time, heads, batch, -1)
    )
    recurrent = cell._recurrent_kernel.transpose(1, 2)
    hidden = inputs.new_zeros(heads, batch, dim)
    memory = empty_memory(hidden)
    outputs = [hidden]
    for step in steps.unbind():
        hidden, memory = slstm_step(torch.baddbmm(step, hidden, recurrent), memory)
        outputs.append(hidden)
    return torch.stack(outputs).transpose(1, 2).reshape(1, time + 1, batch, heads * dim)
