"""The sLSTM recurrence of xLSTM (arXiv 2405.04517), stabilised, in float32."""

from __future__ import annotations

import torch
from torch.nn.functional import logsigmoid


def slstm(inputs: torch.Tensor, kernel: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Run the recurrence over time.

    The stabiliser starts at minus infinity: then the first step's maximum is its input gate, as the paper's separate
    first step has it, without a branch.

    Args:
        inputs: gate pre-activations [batch, time, 4, heads, dim], gates in the order i, f, z, o.
        kernel: recurrent weights [heads, 4, dim out, dim in].
        bias: [4, heads, dim].

    Returns:
        Hidden states [batch, time, heads, dim], float32.
    """
    if fits_kernels(inputs, inputs.shape[-1], largest=128):
        from m3agiqa.model import slstm_kernel

        return slstm_kernel.slstm(inputs, kernel, bias)
    batch, time, gates, heads, dim = inputs.shape
    steps = (inputs + bias).permute(1, 3, 0, 2, 4).reshape(time, heads, batch, gates * dim)
    recurrent = kernel.reshape(heads, gates * dim, dim).transpose(1, 2).contiguous()
    hidden = steps.new_zeros(heads, batch, dim)
    cell, normaliser = torch.zeros_like(hidden), torch.zeros_like(hidden)
    stabiliser = torch.full_like(hidden, -torch.inf)
    outputs = steps.new_empty(time, heads, batch, dim)
    for step in range(time):
        raw = torch.baddbmm(steps[step], hidden, recurrent)
        raw_input, raw_forget, raw_cell, raw_output = raw.split(dim, dim=-1)
        decayed = stabiliser + logsigmoid(raw_forget)
        stabiliser = torch.maximum(raw_input, decayed)
        input_gate = torch.exp(raw_input - stabiliser)
        forget_gate = torch.exp(decayed - stabiliser)
        cell = torch.addcmul(forget_gate * cell, input_gate, torch.tanh(raw_cell))
        normaliser = torch.addcmul(input_gate, forget_gate, normaliser)
        hidden = torch.sigmoid(raw_output) * cell / normaliser
        outputs[step] = hidden
    return outputs.permute(2, 0, 1, 3)


def fits_kernels(states: torch.Tensor, dim: int, *, largest: int) -> bool:
    """Whether a Triton kernel serves heads of `dim`.

    Tensor cores want tiles of 16 at least, Triton powers of two, and of the largest a program's tiles fill its memory.
    """
    return states.is_cuda and 16 <= dim <= largest and dim & (dim - 1) == 0
