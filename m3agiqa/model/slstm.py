"""The sLSTM recurrence of xLSTM (arXiv 2405.04517), stabilised, in float32."""

from __future__ import annotations

import torch
from torch.nn.functional import logsigmoid

from m3agiqa.errors import CheckpointError

#: Cell, normaliser and stabiliser between two steps, each [heads, batch, dim].
Memory = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def slstm(inputs: torch.Tensor, kernel: torch.Tensor, bias: torch.Tensor, *, exact: bool = True) -> torch.Tensor:
    """Run the recurrence over time.

    Args:
        inputs: gate pre-activations [batch, time, 4, heads, dim], gates in the order i, f, z, o.
        kernel: recurrent weights [heads, 4, dim out, dim in].
        bias: [4, heads, dim].
        exact: whether a GPU multiplies in float32, or in a type as exact as float16.

    Returns:
        Hidden states [batch, time, heads, dim], float32.
    """
    if fits_kernels(inputs, inputs.shape[-1], largest=128):
        from m3agiqa.model import slstm_kernel

        return slstm_kernel.slstm(inputs, kernel, bias, exact=exact)
    batch, time, gates, heads, dim = inputs.shape
    steps = (inputs + bias).permute(1, 3, 0, 2, 4).reshape(time, heads, batch, gates * dim)
    recurrent = kernel.reshape(heads, gates * dim, dim).transpose(1, 2).contiguous()
    hidden = steps.new_zeros(heads, batch, dim)
    memory = empty_memory(hidden)
    outputs = steps.new_empty(time, heads, batch, dim)
    for step in range(time):
        hidden, memory = slstm_step(torch.baddbmm(steps[step], hidden, recurrent), memory)
        outputs[step] = hidden
    return outputs.permute(2, 0, 1, 3)


def empty_memory(hidden: torch.Tensor) -> Memory:
    """The memory before the first step, for hidden states like `hidden`.

    The stabiliser starts at minus infinity: then the first step's maximum is its input gate, as the paper's separate
    first step has it, without a branch.
    """
    return torch.zeros_like(hidden), torch.zeros_like(hidden), torch.full_like(hidden, -torch.inf)


def slstm_step(raw: torch.Tensor, memory: Memory) -> tuple[torch.Tensor, Memory]:
    """One step from gate pre-activations [heads, batch, 4 * dim] to the hidden state; heads are trained by it too."""
    cell, normaliser, stabiliser = memory
    raw_input, raw_forget, raw_cell, raw_output = raw.chunk(4, dim=-1)
    decayed = stabiliser + logsigmoid(raw_forget)
    stabiliser = torch.maximum(raw_input, decayed)
    input_gate, forget_gate = torch.exp(raw_input - stabiliser), torch.exp(decayed - stabiliser)
    cell = torch.addcmul(forget_gate * cell, input_gate, torch.tanh(raw_cell))
    normaliser = torch.addcmul(input_gate, forget_gate, normaliser)
    return torch.sigmoid(raw_output) * cell / normaliser, (cell, normaliser, stabiliser)


def recurrent_weights(kernel: torch.Tensor, bias: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Bring either backend's sLSTM weights into one layout.

    The CUDA backend stores the kernel [heads, in, 4 * out] and the bias [heads, gate, dim]; the vanilla one
    [heads, 4 * out, in] and [gate, heads, dim]. The kernel's shape tells which; a bias alone would load silently wrong.

    Returns:
        kernel [heads, 4, out, in] and bias [4, heads, dim], float32.
    """
    heads, rows, columns = kernel.shape
    if columns == 4 * rows:
        return (
            kernel.float().view(heads, rows, 4, rows).permute(0, 2, 3, 1).contiguous(),
            bias.float().view(heads, 4, rows).transpose(0, 1).contiguous(),
        )
    if rows == 4 * columns:
        return kernel.float().view(heads, 4, columns, columns), bias.float().view(4, heads, columns)
    raise CheckpointError(f"sLSTM kernel of shape {tuple(kernel.shape)} has neither backend's layout")


def fits_kernels(states: torch.Tensor, dim: int, *, largest: int) -> bool:
    """Whether a Triton kernel serves heads of `dim`.

    Tensor cores want tiles of at least 16, Triton wants powers of two, and heads of `largest` fill a program's memory.
    """
    return states.is_cuda and 16 <= dim <= largest and dim & (dim - 1) == 0
